//! `seqsvr fence`, `seqsvr migrate` and `seqsvr adopt`: what a person does where a guard says no.
//!
//! Each can be interrupted anywhere and run again, and says with `--dry-run` what it would do.

use clap::Args;

use super::sequence::{id, on_store, print, step};
use crate::app::AppError;
use crate::config::{Config, Id, Step, Store};
use crate::name::SequenceName;
use crate::node::Node;
use crate::store::{Catalog, Edit, Fence, Migration, Purpose, Script};

/// So many sequences are read at a time.
const PAGE: u32 = 500;

#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub(super) struct Fencing {
    /// The sequence; all of them where none is named
    name: Option<SequenceName>,
    /// So many ids past where the counter is [default: the configuration's `mysql.failover_skip`]
    #[arg(long, value_parser = id, value_name = "IDS", conflicts_with = "past")]
    skip: Option<Id>,
    /// Past this id, the highest that any node has leased
    #[arg(long, value_parser = id, value_name = "ID", requires = "name")]
    past: Option<Id>,
    /// Yes, it is far enough
    #[arg(long)]
    yes: bool,
    /// Print the SQL, and change nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Args)]
#[command(group(clap::ArgGroup::new("migration").required(true)))]
#[allow(clippy::struct_excessive_bools)] // each is a flag of the command line
pub(super) struct Migrate {
    /// Move `default` to the counter layout (`seqsvr_sequence`), where blocks have any size
    #[arg(long, group = "migration")]
    counter: bool,
    /// Lease blocks of so many ids from now on
    #[arg(long, value_parser = step, value_name = "IDS", group = "migration")]
    step: Option<Step>,
    /// Widen the column of the tickets to BIGINT
    #[arg(long, group = "migration")]
    widen: bool,
    /// Yes; of another step and of the counter layout: no Go server leases from `generator_table` any more
    #[arg(long)]
    yes: bool,
    /// Print the SQL, and change nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Args)]
pub(super) struct Adopt {
    /// Say what would be done, and change nothing
    #[arg(long)]
    dry_run: bool,
}

pub(super) fn fence(config: &Config, fencing: &Fencing) -> Result<(), AppError> {
    let fence = how_far(config, fencing)?;
    if !fencing.yes && !fencing.dry_run {
        return Err(AppError::Failed(format!(
            "{} would be moved {}, and count as safe. Ids that were leased beyond that, by a node that still runs or before a \
             failover, would be repeated. If it is far enough, add --yes; to see the SQL, add --dry-run",
            fencing.name.as_ref().map_or_else(|| "all counters".to_owned(), |name| format!("the counter of {name}")),
            match fence {
                Fence::Skip(ids) => format!("on by {ids} ids"),
                Fence::Past(id) => format!("past id {id}"),
            }
        )));
    }
    let mut script = Script { is_dry_run: fencing.dry_run, ..Script::default() };
    on_store(config, Purpose::Fence, async |store| {
        if let Some(name) = &fencing.name {
            fence_one(store, name, fence, &mut script).await?;
        } else {
            let (mut after, mut failed) = (None, Vec::new());
            loop {
                let page = store.list(after.as_ref(), PAGE).await?;
                let Some(last) = page.last() else { break };
                after = Some(last.name.clone());
                // The deleted ones too: one that is made again goes on from its counter.
                // One that can't be fenced must not keep the others from it.
                for definition in &page {
                    if let Err(error) = fence_one(store, &definition.name, fence, &mut script).await {
                        eprintln!("seqsvr: {} is not fenced: {error}", definition.name);
                        failed.push(definition.name.to_string());
                    }
                }
            }
            if !failed.is_empty() {
                failed.truncate(20);
                return Err(AppError::Failed(format!("not all are fenced: {} ...", failed.join(", "))));
            }
        }
        Ok(())
    })
}

async fn fence_one(
    store: &dyn Catalog,
    name: &SequenceName,
    fence: Fence,
    script: &mut Script,
) -> Result<(), AppError> {
    let has_moved = store.edit(name, &Edit::Fence(fence), script).await?;
    if script.is_dry_run {
        return print_script(script);
    }
    let next = store.find(std::slice::from_ref(name)).await?.first().and_then(|definition| definition.next_id);
    let now = next.map_or_else(String::new, |next| format!(", and goes on from id {next}"));
    print(&if has_moved {
        format!("fenced {name}{now}\n")
    } else {
        format!("fenced {name}: it was there already{now}\n")
    })
}

fn how_far(config: &Config, fencing: &Fencing) -> Result<Fence, AppError> {
    let configured = match &config.store {
        Store::MySql(mysql) => mysql.failover_skip.get(),
        Store::Embedded => 0,
    };
    match (fencing.skip, fencing.past) {
        (_, Some(id)) => Ok(Fence::Past(id.get())),
        (Some(ids), _) => Ok(Fence::Skip(ids.get())),
        (None, None) if configured > 0 => Ok(Fence::Skip(configured)),
        (None, None) => Err(AppError::Failed(
            "how far? --past ID (of one sequence: the highest id that any node has leased, as its metric \
             seqsvr_high_water_mark_ids says), or --skip IDS: more than was leased since the backup, or since the replica got \
             the last commit (rate times time). Gaps cost nothing, repeats do: take ten times what you think"
                .to_owned(),
        )),
    }
}

pub(super) fn migrate(config: &Config, migrate: &Migrate) -> Result<(), AppError> {
    let (migration, what) = match (migrate.step, migrate.counter) {
        (Some(step), _) => (Migration::Step(step), format!("generator_table would be moved to step {}", step.get())),
        (_, true) => (Migration::Counter, "default would be moved from generator_table to seqsvr_sequence".to_owned()),
        _ => (Migration::Widen, "the column generator_table.id would be widened".to_owned()),
    };
    let mut script = Script { is_dry_run: migrate.dry_run, ..Script::default() };
    on_store(config, Purpose::Use, async |store| {
        if !migrate.yes && !migrate.dry_run && migration == Migration::Widen {
            return Err(AppError::Failed(format!(
                "{what}; who leases waits for a moment. If that is meant, add --yes; to see the SQL, add --dry-run"
            )));
        }
        if !migrate.yes && !migrate.dry_run {
            let others = store.foreign_rows().await?;
            let named = if others.is_empty() {
                "It has no rows of other servers now".to_owned()
            } else {
                format!("These rows are not of seqsvr: {}", others.join(", "))
            };
            return Err(AppError::Failed(format!(
                "{what}, while seqsvr nodes go on. A Go server must not lease from it any more, for it knows nothing of this and \
                 would repeat ids. {named}. Stop them all, and add --yes; to see the SQL, add --dry-run"
            )));
        }
        let told = store.migrate(migration, &mut script).await?;
        if script.is_dry_run { print_script(&mut script) } else { print(&(told + "\n")) }
    })
}

fn print_script(script: &mut Script) -> Result<(), AppError> {
    if !script.statements.is_empty() {
        print("-- with the numbers of now, to be read and not to be run: others count on meanwhile\n")?;
    }
    script.statements.drain(..).try_for_each(|statement| print(&format!("{statement};\n")))
}

pub(super) fn adopt(config: &Config, adopt: Adopt) -> Result<(), AppError> {
    let dir = config.data_dir.display();
    let node = Node::open(&config.data_dir).map_err(|error| AppError::Misconfigured(error.to_string()))?;
    if !node.is_remembered() {
        return Err(AppError::Failed(format!("data_dir {dir} is held by a running server: stop it first")));
    }
    let before = node.store_id();
    let before = before.as_deref().unwrap_or("none");
    if adopt.dry_run {
        return print(&format!(
            "the next start would accept the store that it finds (now: store_id {before}), and forget what was leased of this one \
             if it is another\n"
        ));
    }
    node.adopt();
    node.save().map_err(|error| AppError::Failed(format!("data_dir {dir}: {error}")))?;
    print(&format!(
        "the next start accepts the store that it finds (until now: store_id {before}). If it is another one, make sure that its \
         ids begin past those of the old one\n"
    ))
}
