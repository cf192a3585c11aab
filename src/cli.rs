//! The command line: `seqsvr [serve]`, `check`, `healthcheck`, `adopt`, `doctor`, `fence`, `migrate`, `sequence`.

use std::fmt::Display;
use std::io::{IsTerminal, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

use crate::app::{self, AppError};
use crate::config::{
    Config, ENVIRONMENT_PREFIX, EXIT_CONFIGURATION, Listen, Log, LogFormat, LogLevel, Origins, Sources,
};

mod doctor;
mod guard;
mod sequence;

/// With the commit and its date: `0.1.0 (1a2b3c4 2026-01-31)`.
const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("BUILD_COMMIT"), " ", env!("BUILD_DATE"), ")");

/// Hands out unique, rising 64-bit ids over HTTP, leased in blocks from MySQL or from an embedded store.
#[derive(Debug, Parser)]
#[command(
    version = VERSION,
    about,
    after_help = "\
Examples:
  seqsvr --embedded             try it: the counter is kept in ./data, ids are at http://localhost:8000/new
  seqsvr                        serve as ./config.yml says
  seqsvr --config /etc/seqsvr.yml check
  seqsvr doctor                 what is right and wrong with the database, and what to do
  seqsvr sequence create orders --step 1000       ids of it are at http://localhost:8000/new/orders
  SEQSVR_MYSQL__PASSWORD_FILE=/run/secrets/db seqsvr

Every key of the configuration but sequences can be set by an environment variable: SEQSVR_STEP,
SEQSVR_LIMITS__WAIT.
Exit codes: 0 ended as asked, 1 failed, 78 the configuration (or what it points to) must be changed.
Those of doctor: 0 all is ok, 1 warnings (0 with --fail-on fail), 2 failures."
)]
struct Arguments {
    #[arg(
        long,
        short,
        global = true,
        value_name = "FILE",
        help = "The configuration file [default: $SEQSVR_CONFIG, ./config.yml or /etc/seqsvr/config.yml]"
    )]
    config: Option<PathBuf>,

    /// Use the embedded store; without --config, no file is read
    #[arg(long, global = true)]
    embedded: bool,

    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
enum Command {
    /// Serve ids (what is done without a command)
    Serve,
    /// Print the configuration that would be used, and where each value comes from; exit code 78 if something is wrong with it
    Check {
        /// As one JSON object: settings (each with key, value, source)
        #[arg(long)]
        json: bool,
    },
    /// Ask the running server whether it answers (/livez): exit code 0 or 1, for containers
    Healthcheck {
        /// Ask whether it is ready (/readyz): never restart a server that is not, for its database may be away
        #[arg(long)]
        ready: bool,
    },
    /// Accept another store than the one that this node leased from before
    Adopt(guard::Adopt),
    /// Make, show and change sequences; running nodes follow within 5 s
    #[command(subcommand)]
    Sequence(sequence::Command),
    /// Move counters past all ids that could be out, and declare them safe on the database server of now: after a restored
    /// backup, or a failover that may have lost commits
    Fence(guard::Fencing),
    /// Move the tickets of `generator_table` to another step, a wider column or `seqsvr_sequence`, while nodes go on
    Migrate(guard::Migrate),
    /// Look at the store and print what is right and wrong with it, and what to do: exit code 0, 1 or 2
    Doctor(doctor::Doctor),
}

/// Does what the arguments say; the exit code.
pub fn run() -> ExitCode {
    #[cfg(feature = "faults")]
    crate::faults::tell();
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are no errors. Nothing is left to do if the message can't be printed.
            let _ = error.print();
            return if error.use_stderr() { EXIT_CONFIGURATION.into() } else { ExitCode::SUCCESS };
        }
    };
    match execute(arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("seqsvr: {error}");
            error.exit_code().into()
        }
    }
}

fn execute(arguments: Arguments) -> Result<ExitCode, AppError> {
    let command = arguments.command.unwrap_or(Command::Serve);
    let environment = environment()?;
    let sources = Sources { file: arguments.config, embedded: arguments.embedded, environment };
    let (config, origins) = Config::load(&sources).map_err(|error| AppError::Misconfigured(error.to_string()))?;
    match command {
        Command::Serve => return serve(&config),
        Command::Check { json } => check(&config, &origins, json),
        Command::Healthcheck { ready } => healthcheck(&config.port, if ready { "/readyz" } else { "/livez" }),
        Command::Adopt(adopt) => guard::adopt(&config, adopt),
        Command::Fence(fencing) => guard::fence(&config, &fencing),
        Command::Sequence(command) => sequence::run(&config, command),
        Command::Migrate(migrate) => guard::migrate(&config, &migrate),
        Command::Doctor(arguments) => return doctor::run(&config, arguments),
    }
    .map(|()| ExitCode::SUCCESS)
}

/// The variables that configure the server.
fn environment() -> Result<Vec<(String, String)>, AppError> {
    let ours = std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value)));
    ours.filter(|(name, _)| name.starts_with(ENVIRONMENT_PREFIX))
        .map(|(name, value)| match value.into_string() {
            Ok(value) => Ok((name, value)),
            Err(_) => Err(AppError::Misconfigured(format!("{name}: its value is not UTF-8"))),
        })
        .collect()
}

/// Runs the server; the exit code. Why it ended is in the log, in the log's format.
fn serve(config: &Config) -> Result<ExitCode, AppError> {
    start_log(config.log);
    // Two threads: the refill must not wait for the signals, nor either for the node's memory to be written.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("seqsvr-main")
        .enable_all()
        .build()
        .map_err(|error| AppError::Failed(format!("threads can't be started: {error}")))?;
    let outcome = runtime.block_on(app::run(config));
    // A lease that hangs in a system call must not keep the process.
    runtime.shutdown_background();
    Ok(match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("ended: {error}");
            error.exit_code().into()
        }
    })
}

fn start_log(log: Log) {
    let level = match log.level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    // actix tells of its workers' starts and stops: ours say what matters.
    let others = if level == LevelFilter::INFO { LevelFilter::WARN } else { level };
    let mut targets = Targets::new().with_default(others).with_target("seqsvr", level);
    if level <= LevelFilter::INFO {
        // It reports each connection that sends rubbish, as an error: a port scan would fill the log.
        targets = targets.with_target("actix_http", LevelFilter::OFF);
    }
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        // It would write to standard error, and panic where that is what is closed.
        .log_internal_errors(false)
        .with_target(false);
    let lines = match log.format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    tracing_subscriber::registry().with(lines.with_filter(targets)).init();
}

/// Prints each setting, and where it comes from. An error if the server could not use `data_dir`.
fn check(config: &Config, origins: &Origins, is_json: bool) -> Result<(), AppError> {
    let settings = config.settings();
    let by_section = settings.contains(&("store".to_owned(), "mysql".to_owned()));
    // The section chooses the store too.
    let origin = |key: &str| origins.of(if key == "store" && by_section { "mysql.host" } else { key });
    if is_json {
        let settings: Vec<_> = settings
            .iter()
            .map(|(key, value)| serde_json::json!({"key": key, "value": value, "source": origin(key).unwrap_or("default")}))
            .collect();
        println!("{}", serde_json::json!({"settings": settings}));
    } else {
        let width = |texts: &mut dyn Iterator<Item = usize>| texts.max().unwrap_or(0);
        let key_width = width(&mut settings.iter().map(|(key, _)| key.len()));
        let value_width = width(&mut settings.iter().map(|(_, value)| value.len())).min(40);
        for (key, value) in &settings {
            println!("{key:key_width$}  {value:value_width$}  {}", origin(key).unwrap_or("default"));
        }
    }
    app::try_data_dir(config)?;
    if !is_json {
        println!("{} is valid", origins.place());
    }
    Ok(())
}

/// No answer within this is as bad as a wrong one.
const HEALTHCHECK_TIMEOUT: Duration = Duration::from_secs(2);

fn healthcheck(listen: &Listen, path: &str) -> Result<(), AppError> {
    let addresses = match (listen.named_host(), &listen.host) {
        (Some(host), _) => (host, listen.port).to_socket_addrs().map(Iterator::collect),
        (None, Some(host)) if host.parse::<Ipv4Addr>().is_ok() => Ok(vec![(Ipv4Addr::LOCALHOST, listen.port).into()]),
        // An address to listen on is none to connect to.
        (None, _) => Ok(vec![(Ipv4Addr::LOCALHOST, listen.port).into(), (Ipv6Addr::LOCALHOST, listen.port).into()]),
    };
    let failed = |at: &dyn Display, error: &std::io::Error| AppError::Failed(format!("{at}: {error}"));
    let addresses: Vec<SocketAddr> = addresses.map_err(|error| failed(listen, &error))?;
    let share = HEALTHCHECK_TIMEOUT / u32::try_from(addresses.len()).unwrap_or(u32::MAX).max(1);
    let ask = |address: &SocketAddr| {
        let mut stream = TcpStream::connect_timeout(address, share)?;
        stream.set_read_timeout(Some(share))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.take(64 << 10).read_to_string(&mut answer)?;
        Ok(answer)
    };
    let mut outcome = Err(AppError::Failed(format!("{listen}: the host has no address")));
    for address in addresses {
        outcome = ask(&address).map_err(|error| failed(&address, &error));
        if outcome.is_ok() {
            break;
        }
    }
    let answer = outcome?;
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    if answer.starts_with("HTTP/1.1 200 ") {
        println!("{body}");
        Ok(())
    } else {
        Err(AppError::Failed(body.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Arguments::command().debug_assert();
        let parsed = Arguments::try_parse_from(["seqsvr", "check", "--config", "x.yml"]).unwrap();
        assert_eq!((parsed.command, parsed.config), (Some(Command::Check { json: false }), Some("x.yml".into())));
    }
}
