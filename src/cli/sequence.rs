//! `seqsvr sequence ...`: what people do to the sequences of a store.

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use clap::Subcommand;
use serde_json::json;

use super::start_log;
use crate::app::AppError;
use crate::config::{self, Config, Id, Log, LogLevel, NewSequence, Step, Store};
use crate::name::SequenceName;
use crate::node::Node;
use crate::store::{self, Catalog, Change, Definition, Edit, Purpose, Script, StoreError};

/// So many sequences are read at a time.
const PAGE: u32 = 500;

#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub(super) enum Command {
    /// Make a sequence; one that was deleted goes on from where it was
    Create {
        /// 1 to 128 characters out of A-Z a-z 0-9 . _ : -
        name: SequenceName,
        /// Ids in the smallest block, 1 to 4294967295 [default: the configuration's step]
        #[arg(long, value_parser = step)]
        step: Option<Step>,
        /// The first id [default: 1]
        #[arg(long, value_parser = id, value_name = "ID")]
        first_id: Option<Id>,
        /// The largest id [default: 9007199254740991, the last one that every JSON reader gets right]
        #[arg(long, value_parser = id, value_name = "ID")]
        max_id: Option<Id>,
        /// For people, up to 255 bytes
        #[arg(long, value_parser = description, default_value = "")]
        description: String,
    },
    /// Print the sequences, a line each
    List {
        /// The deleted ones too
        #[arg(long)]
        all: bool,
        /// A JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// Print all that is known of a sequence
    Show {
        /// Its name
        name: SequenceName,
        /// As a JSON object
        #[arg(long)]
        json: bool,
    },
    /// Change a sequence
    #[command(group(clap::ArgGroup::new("change").required(true).multiple(true)))]
    Alter {
        /// Its name
        name: SequenceName,
        /// Ids in the smallest block, 1 to 4294967295
        #[arg(long, value_parser = step, group = "change")]
        step: Option<Step>,
        /// The largest id; not below what is leased
        #[arg(long, value_parser = id, value_name = "ID", group = "change")]
        max_id: Option<Id>,
        /// For people, up to 255 bytes
        #[arg(long, value_parser = description, group = "change")]
        description: Option<String>,
    },
    /// Move the counter forward, never back: nodes drop what they hold and go on from there
    Advance {
        /// Its name
        name: SequenceName,
        /// The next id
        #[arg(long, value_parser = id, value_name = "ID")]
        to: Id,
    },
    /// Delete a sequence: it is answered 404; its counter is kept for one that is made again with its name
    Delete {
        /// Its name
        name: SequenceName,
        /// Yes, delete it
        #[arg(long)]
        yes: bool,
    },
}

pub(super) fn step(typed: &str) -> Result<Step, String> {
    let number = typed.parse().ok().and_then(Step::new);
    number.ok_or_else(|| "write a whole number from 1 to 4294967295".to_owned())
}

pub(super) fn id(typed: &str) -> Result<Id, String> {
    let number = typed.parse().ok().and_then(Id::new);
    number.ok_or_else(|| format!("write a whole number from 1 to {}", config::LARGEST_MAX_ID))
}

fn description(typed: &str) -> Result<String, String> {
    config::check_description(typed).map(|()| typed.to_owned())
}

impl From<StoreError> for AppError {
    fn from(error: StoreError) -> Self {
        if error.kind.is_misconfigured() { Self::Misconfigured(error.what) } else { Self::Failed(error.what) }
    }
}

/// Runs `work` on the store that is configured. Only [`Purpose::Serve`] may create a store: a command that looks must not
/// leave one behind where a host or a folder was mistyped.
pub(super) fn on_store<T>(
    config: &Config,
    purpose: Purpose,
    work: impl AsyncFnOnce(&dyn Catalog) -> Result<T, AppError>,
) -> Result<T, AppError> {
    start_log(Log { level: LogLevel::Warn, ..config.log });
    if purpose == Purpose::Serve && config.store == Store::Embedded {
        make_folder(&config.data_dir)?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| AppError::Failed(format!("threads can't be started: {error}")))?;
    // It leases nothing, so it needs no memory of its own; that of a running node is locked.
    let store = store::select(config, purpose, Arc::new(Node::forgetful()));
    runtime.block_on(async {
        let outcome = work(&*store).await;
        store.close().await;
        outcome
    })
}

fn make_folder(dir: &Path) -> Result<(), AppError> {
    std::fs::create_dir_all(dir)
        .map_err(|error| AppError::Misconfigured(format!("data_dir {}: {error}", dir.display())))
}

pub(super) fn run(config: &Config, command: Command) -> Result<(), AppError> {
    match command {
        Command::Create { name, step, first_id, max_id, description } => {
            let mut new = NewSequence::new(name, step.unwrap_or(config.step));
            new.first_id = first_id.map_or(new.first_id, Id::get);
            new.max_id = max_id.map_or(new.max_id, Id::get);
            new.description = description;
            new.check().map_err(AppError::Failed)?;
            on_store(config, Purpose::Serve, async |store| {
                edit(store, &new.name, Edit::Create(new.clone())).await?;
                let definition = find(store, &new.name).await?;
                print(&format!("made the sequence {}, from id {}\n", new.name, next(&definition)))
            })
        }
        Command::List { all, json } => on_store(config, Purpose::Use, async |store| list(store, all, json).await),
        Command::Show { name, json } => on_store(config, Purpose::Use, async |store| {
            let definition = find(store, &name).await?;
            print(&if json { as_json(&definition) + "\n" } else { as_text(&definition) })
        }),
        Command::Alter { name, step, max_id, description } => on_store(config, Purpose::Use, async |store| {
            edit(store, &name, Edit::Alter(Change { step, max_id: max_id.map(Id::get), description })).await?;
            print(&as_text(&find(store, &name).await?))
        }),
        Command::Advance { name, to } => on_store(config, Purpose::Use, async |store| {
            let has_moved = edit(store, &name, Edit::Advance(to.get())).await?;
            // A node may lease before it is read.
            let next = if has_moved { to.get().to_string() } else { next(&find(store, &name).await?) };
            print(&if has_moved {
                format!("{name} goes on from id {next}; running nodes drop what they hold from before within 5 s\n")
            } else {
                format!("{name} was at id {next} already and stays there; its counter counts as safe now\n")
            })
        }),
        Command::Delete { name, yes } => {
            if !yes {
                return Err(AppError::Failed(format!(
                    "{name} would be deleted: running nodes would answer 404 within 5 s and drop what they hold. If that is \
                     meant, add --yes"
                )));
            }
            on_store(config, Purpose::Use, async |store| {
                edit(store, &name, Edit::Delete).await?;
                print(&format!(
                    "deleted {name}. Its counter is kept: one made again with its name goes on from there\n"
                ))
            })
        }
    }
}

async fn edit(store: &dyn Catalog, name: &SequenceName, edit: Edit) -> Result<bool, StoreError> {
    store.edit(name, &edit, &mut Script::default()).await
}

async fn find(store: &dyn Catalog, name: &SequenceName) -> Result<Definition, AppError> {
    let found = store.find(std::slice::from_ref(name)).await?;
    found.into_iter().next().ok_or_else(|| {
        AppError::Failed(format!("there is no sequence {name}. To see which there are: seqsvr sequence list"))
    })
}

async fn list(store: &dyn Catalog, all: bool, json: bool) -> Result<(), AppError> {
    if !json {
        print(&row("NAME", "STEP", "NEXT ID", "MAX ID", "USED", "DESCRIPTION"))?;
    }
    let mut after = None;
    loop {
        let page = store.list(after.as_ref(), PAGE).await?;
        let Some(last) = page.last() else { return Ok(()) };
        after = Some(last.name.clone());
        for definition in page.iter().filter(|definition| all || !definition.is_deleted) {
            print(&if json { as_json(definition) + "\n" } else { as_row(definition) })?;
        }
    }
}

/// Whoever closed the pipe has read enough.
pub(super) fn print(text: &str) -> Result<(), AppError> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(AppError::Failed(format!("printing: {error}"))),
        Err(_) => std::process::exit(0),
        Ok(()) => Ok(()),
    }
}

fn row(name: &str, step: &str, next: &str, max: &str, used: &str, description: &str) -> String {
    format!("{name:<32} {step:>10} {next:>19} {max:>19} {used:>6}  {description}").trim_end().to_owned() + "\n"
}

fn next(definition: &Definition) -> String {
    definition.next_id.map_or_else(|| "-".to_owned(), |next| next.to_string())
}

fn used(definition: &Definition) -> String {
    #[allow(clippy::cast_precision_loss)]
    let share = |next: u64| next.saturating_sub(1) as f64 / definition.terms.max_id as f64 * 100.0;
    definition.next_id.map_or_else(|| "-".to_owned(), |next| format!("{:.1}%", share(next)))
}

fn remark(definition: &Definition) -> String {
    let deleted = if definition.is_deleted { "(deleted) " } else { "" };
    format!("{deleted}{}", definition.description)
}

fn as_row(definition: &Definition) -> String {
    let (step, max) = (definition.terms.step.get().to_string(), definition.terms.max_id.to_string());
    row(definition.name.as_str(), &step, &next(definition), &max, &used(definition), &remark(definition))
}

fn as_text(definition: &Definition) -> String {
    format!(
        "name         {}\nstep         {}\nnext id      {}\nmax id       {}\nused         {}\nincarnation  {}\n\
         description  {}\n",
        definition.name,
        definition.terms.step.get(),
        next(definition),
        definition.terms.max_id,
        used(definition),
        definition.terms.incarnation,
        remark(definition)
    )
}

fn as_json(definition: &Definition) -> String {
    json!({
        "name": definition.name.as_str(),
        "step": definition.terms.step.get(),
        "next_id": definition.next_id,
        "max_id": definition.terms.max_id,
        "incarnation": definition.terms.incarnation,
        "deleted": definition.is_deleted,
        "description": definition.description,
    })
    .to_string()
}
