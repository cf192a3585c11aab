//! `seqsvr doctor`: what is right and what is wrong with the store, and what to do.

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::sequence::{on_store, print};
use crate::app::AppError;
use crate::config::Config;
use crate::doctor;
use crate::node::Node;
use crate::store::Purpose;
use crate::store::finding::{Expected, Finding, Verdict};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Args)]
#[allow(clippy::struct_excessive_bools)] // flags of the command line
pub(super) struct Doctor {
    /// As one JSON object: store, verdict, findings (each with what, found, verdict, advice)
    #[arg(long, conflicts_with = "prune")]
    json: bool,
    /// From which finding on the exit code is not 0
    #[arg(long, value_enum, default_value = "warn", value_name = "VERDICT", conflicts_with = "prune")]
    fail_on: FailOn,
    /// How long the counters are watched to tell how long they last, up to 1m
    #[arg(long, value_parser = sample, default_value = "2s", value_name = "DURATION")]
    sample: Duration,
    /// Instead: delete rows that nodes left behind in `generator_table`; without --yes only say which
    #[arg(long)]
    prune: bool,
    /// Yes, delete them
    #[arg(long, requires = "prune", conflicts_with = "dry_run")]
    yes: bool,
    /// Delete nothing (what is done without --yes)
    #[arg(long, requires = "prune")]
    dry_run: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum FailOn {
    Warn,
    Fail,
}

/// The longest look at the counters.
const LONGEST_SAMPLE: Duration = Duration::from_secs(60);

fn sample(typed: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(typed).map_err(|error| format!("{error}: write 500ms, 2s or 1m"))?;
    if duration <= LONGEST_SAMPLE { Ok(duration) } else { Err("write at most 1m".to_owned()) }
}

pub(super) fn run(config: &Config, arguments: Doctor) -> Result<ExitCode, AppError> {
    // Read before the counters are: what a running server leases in between makes no mark too high. One that ends in between
    // gives its tail back, and may look as if the counter went back: a second run tells.
    let remembered = Node::read(&config.data_dir);
    let node = remembered.as_ref().ok().and_then(Option::as_ref);
    on_store(config, Purpose::Use, async |store| {
        if arguments.prune {
            let dry_run = !arguments.yes;
            let pruned = store.prune(dry_run).await?;
            print(&doctor::pruned_as_text(&pruned, dry_run))?;
            return Ok(ExitCode::SUCCESS);
        }
        let mut findings = store.examine(Expected { step: config.step, node, sample: arguments.sample }).await;
        if let Err(error) = &remembered {
            let advice =
                "until then this node has no guard of its own, and a server on an embedded store does not start";
            findings.insert(0, Finding::warn("data_dir", error.to_string(), advice));
        }
        let (store, show) = (store.describe(), if arguments.json { doctor::as_json } else { doctor::as_text });
        print(&show(&store, &findings))?;
        let fail_on = match arguments.fail_on {
            FailOn::Warn => Verdict::Warn,
            FailOn::Fail => Verdict::Fail,
        };
        Ok(doctor::exit_code(doctor::worst(&findings), fail_on).into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_look_at_the_counters_is_bounded() {
        assert_eq!(sample("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(sample("1m"), Ok(LONGEST_SAMPLE));
        assert!(sample("61s").is_err() && sample("2").is_err() && sample("").is_err());
    }
}
