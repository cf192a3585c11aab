//! kill -9: of the server, amid its leases and anywhere else, and of the database.

use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::rig::{Layout, Outcome, Run, fill, start, under_load};
use crate::support::checker::Checker;
use crate::support::database::{Database, Flavor};
use crate::support::http::{get, load, load_of_until_gone, load_until_gone};
use crate::support::server::{PATIENCE, Server, Setup, eventually};
use crate::support::sql;

/// The most that a node leases at once.
const MAX_BLOCK: u64 = 5_000;

/// The connections of the node that is killed: those that ask for one id, and those that ask for many at once.
const SINGLES: usize = 8;
const BATCHES: usize = 4;
const BATCH: u64 = 1_000;

/// What it held, what it leased when it was killed, and what was in answers that did not come.
const MOST_LOST: u64 = 2 * MAX_BLOCK + BATCHES as u64 * BATCH + SINGLES as u64;

/// Where two nodes lease.
enum Place {
    On(Database, Layout),
    Embedded,
}

/// What ends a node.
enum End {
    /// A fail point, when it is reached for the next time after so many.
    At(&'static str, u64),
    After(Duration),
}

impl Place {
    fn setups(&self, run: &Run) -> [Setup; 2] {
        let setups = match self {
            Self::On(database, layout) => {
                [(); 2].map(|()| run.node_on(database, *layout).env("SEQSVR_MYSQL__FAILOVER_SKIP", "1000"))
            }
            Self::Embedded => {
                let setups = [(); 2].map(|()| run.setup(Setup::embedded()).patient());
                let file = setups[0].folder().join("data").display().to_string();
                setups.map(|setup| setup.env("SEQSVR_DATA_DIR", &file))
            }
        };
        setups.map(|setup| {
            setup.env("SEQSVR_REFILL__MAX_BLOCK", &MAX_BLOCK.to_string()).env("SEQSVR_LOG__LEVEL", "debug")
        })
    }

    /// The points of src that are reached here.
    fn points(&self) -> Vec<&'static str> {
        let own: &[&str] = match self {
            Self::On(_, Layout::Ticket) => {
                &["ticket-looks", "ticket-inserts", "ticket-inserted", "ticket-looked", "fence-begins", "fence-ends"]
            }
            Self::On(_, Layout::Counter) => {
                &["counter-claims", "counter-claimed", "give-back-begins", "fence-begins", "fence-ends"]
            }
            Self::Embedded => &["sqlite-commits", "sqlite-committed"],
        };
        let of_the_driver = if let Self::Embedded = self { &[][..] } else { &["statement-begins", "statement-ended"] };
        [own, of_the_driver, &["lease-begins", "lease-publishes", "lease-published"]].concat()
    }

    /// Makes the counter look as it does after a failover.
    fn fail_over(&self) {
        let Self::On(database, layout) = self else { panic!("it has no server") };
        sql(
            database,
            match layout {
                Layout::Ticket => "UPDATE sequence.seqsvr_meta SET owner = 'elsewhere'",
                Layout::Counter => {
                    "UPDATE sequence.seqsvr_sequence SET server = CONCAT('elsewhere ', SUBSTRING_INDEX(server, ' ', -1))"
                }
            },
        );
    }

    /// Ends `victim`, which is under load, at a point that it is set up with. `false` if it ended by itself: a node gives nothing
    /// back if a lease was under way when it stopped.
    fn end_at(&self, point: &str, victim: &mut Server) -> bool {
        if point == "give-back-begins" {
            victim.signal("TERM");
        }
        let is_over = AtomicBool::new(false);
        let ended = thread::scope(|scope| {
            if point.starts_with("fence") {
                // Again and again, for the other node may be the one that fences.
                scope.spawn(|| {
                    while !is_over.load(Ordering::Relaxed) {
                        self.fail_over();
                        thread::sleep(Duration::from_millis(200));
                    }
                });
            }
            let ended = catch_unwind(AssertUnwindSafe(|| victim.wait()));
            is_over.store(true, Ordering::Relaxed);
            ended
        });
        // Else its load would never end.
        victim.kill();
        let status = ended.unwrap_or_else(|_| panic!("{point} was not reached"));
        let log = victim.log();
        let leased_last = log.split_once("draining").is_some_and(|(_, last)| last.contains("leased sequence="));
        let gave_nothing_back = point == "give-back-begins" && status.success() && leased_last;
        assert!(status.signal() == Some(9) || gave_nothing_back, "{point}: {status}, {log}");
        !gave_nothing_back
    }
}

/// The names of all points in src.
fn points_in_src() -> BTreeSet<String> {
    fn visit(folder: &Path, found: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(folder).expect("a folder of the source") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                visit(&path, found);
            } else {
                let text = std::fs::read_to_string(&path).expect("a source file");
                let names = text.split(r#"faults::point(""#).skip(1).filter_map(|rest| rest.split('"').next());
                found.extend(names.map(ToOwned::to_owned));
            }
        }
    }
    let mut found = BTreeSet::new();
    visit(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
    assert!(found.len() > 10, "{found:?}");
    found
}

/// kill -9 of one of two nodes under load, again and again: at every named point of a lease, and at random moments.
pub fn kill_of_the_server(run: &Run) -> Outcome {
    let mut outcome = Outcome { lost: Some(0), ..Outcome::default() };
    let mut reached = BTreeSet::new();
    let on = |flavor, layout| Place::On(Database::start(flavor), layout);
    let places: &[&dyn Fn() -> Place] = if run.is_full {
        &[
            &|| on(Flavor::MariaDb, Layout::Ticket),
            &|| on(Flavor::MariaDb, Layout::Counter),
            &|| on(Flavor::MySql9, Layout::Ticket),
            &|| on(Flavor::MySql9, Layout::Counter),
            &|| Place::Embedded,
        ]
    } else {
        &[&|| on(Flavor::MariaDb, Layout::Ticket), &|| on(Flavor::MySql9, Layout::Counter), &|| Place::Embedded]
    };
    let (mut kills, mut amid_leases) = (0, 0);
    for place in places {
        let place = place();
        let mut ends = Vec::new();
        if run.is_full {
            let points = place.points();
            for round in 0..20_u64 {
                let point = points[usize::try_from(round).expect("few") % points.len()];
                ends.push(End::At(point, 2 + round));
                ends.push(End::After(Duration::from_millis(20 + 31 * round)));
            }
        } else {
            // Each point once.
            let points = place.points().into_iter().filter(|point| !reached.contains(*point));
            ends.extend(points.map(|point| End::At(point, 2)));
            ends.push(End::After(Duration::from_millis(100)));
        }
        kills += ends.len() as u64;
        for end in &ends {
            if let End::At(point, _) = end {
                reached.insert((*point).to_owned());
                amid_leases += 1;
            }
        }
        let (all, lost) = kill_again_and_again(run, &place, &ends);
        outcome.take_in(all);
        outcome.lost = outcome.lost.map(|before| before + lost);
    }
    outcome.rounds = kills;
    println!("{kills} kills, {amid_leases} of them amid a lease");
    assert_eq!(reached, points_in_src(), "each point of the source, and no other, has been the end of a node");
    if run.is_full {
        assert!(kills >= 200 && amid_leases >= 50);
        assert!(outcome.checker.ids().len() >= 1_000_000, "{} ids", outcome.checker.ids().len());
    }
    outcome
}

/// What was answered, and how many ids were lost.
fn kill_again_and_again(run: &Run, place: &Place, ends: &[End]) -> (Checker, u64) {
    let [mut setup, other] = place.setups(run);
    let survivor = start(&other);
    let (mut all, mut all_lost) = (Checker::default(), 0);
    let (mut left, mut misses) = (ends.iter().rev().collect::<Vec<_>>(), 0);
    while let Some(end) = left.pop() {
        let points = match end {
            // These are small parts of a lease, and a start has many.
            End::At(point, after) if point.starts_with("statement") || point.starts_with("sqlite") => {
                format!("{point}={}*off->return", 30 + 3 * after)
            }
            End::At(point, _) if point.starts_with("fence") || point.starts_with("give") => format!("{point}=return"),
            End::At(point, after) => format!("{point}={after}*off->return"),
            End::After(_) => String::new(),
        };
        setup = setup.env("FAILPOINTS", &points);
        let mut victim = setup.spawn();
        // On a slow machine a start does more, and may come to the point: that is no end under load.
        let is_up = eventually("it is ready, or at its end", || {
            victim.is_ready().then_some(true).or_else(|| victim.ended().map(|_| false))
        });
        if !is_up {
            misses += 1;
            assert!(misses < 10 && !points.is_empty(), "{points}: it ended at its start: {}", victim.log());
            left.push(end);
            continue;
        }
        let ports = [victim.port()];
        let of_the_other = || load(&[survivor.port()], 4, 100);
        let (others, mut ids) = under_load(of_the_other, || {
            thread::scope(|scope| {
                let singles = scope.spawn(|| load_until_gone(&ports, SINGLES));
                let batches = scope.spawn(|| load_of_until_gone(&format!("/new?count={BATCH}"), &ports, BATCHES));
                match end {
                    End::At(point, _) => {
                        if !place.end_at(point, &mut victim) {
                            misses += 1;
                            assert!(misses < 10, "{point} is not reached");
                            left.push(end);
                        }
                    }
                    End::After(time) => {
                        thread::sleep(*time);
                        victim.kill();
                    }
                }
                let mut ids = singles.join().expect("the load's thread");
                ids.merge(batches.join().expect("the load's thread"));
                ids
            })
        });
        ids.leased(victim.leased().into_iter().map(|(_, start, end)| (start, end)));
        let verdict = ids.verdict();
        assert!(verdict.lost <= MOST_LOST, "{points}: {verdict}, which is more than {MOST_LOST}");
        all_lost += verdict.lost;
        // Its own blocks alone: an id of the other's is outside too.
        if let Some(id) = verdict.first_outside {
            ids.error(format!("{points}: {} ids that the node did not lease, such as {id}", verdict.outside));
        }
        all.merge(ids);
        all.merge(others);
    }
    all.leased(survivor.leased().into_iter().map(|(_, start, end)| (start, end)));
    (all, all_lost)
}

/// After the database's return there is a lease within this ...
const REFILL: Duration = Duration::from_secs(5);
/// ... or, where the machine may be busy with other tests, within this.
const PATIENT_REFILL: Duration = PATIENCE;

/// kill -9 of the database under load, again and again.
pub fn kill_of_the_database(run: &Run) -> Outcome {
    let mut outcome = Outcome::default();
    let places: &[_] = if run.is_full {
        &[
            (Flavor::MariaDb, Layout::Ticket),
            (Flavor::MariaDb, Layout::Counter),
            (Flavor::MySql9, Layout::Ticket),
            (Flavor::MySql9, Layout::Counter),
        ]
    } else {
        &[(Flavor::MariaDb, Layout::Ticket), (Flavor::MySql9, Layout::Counter)]
    };
    let bound = if run.is_full { REFILL } else { PATIENT_REFILL };
    let mut slowest = Duration::ZERO;
    for (flavor, layout) in places {
        let mut database = Database::start(*flavor);
        // However slow the machine is, this much is held soon; and the load below can't take it while the database is away.
        let setup = run
            .node_on(&database, *layout)
            .env("SEQSVR_REFILL__MAX_BLOCK", "200000")
            .env("SEQSVR_REFILL__RUNWAY", "10m");
        let mut server = start(&setup);
        let mut all = Checker::default();
        for _ in 0..run.rounds(13, 1) {
            outcome.rounds += 1;
            all.merge(fill(&server, 150_000.0));
            let port = server.port();
            let paced = || {
                thread::sleep(Duration::from_millis(5));
                load(&[port], 8, 100)
            };
            let (ids, ()) = under_load(paced, || {
                thread::sleep(Duration::from_millis(100));
                database.kill();
                // That much less is held than should be: it has to lease.
                all.merge(load_ranges(port));
                thread::sleep(Duration::from_millis(200));
                database.restart();
                let (back, before) = (Instant::now(), leases(&server));
                let is_leasing = || leases(&server) > before;
                while !is_leasing() && back.elapsed() < bound {
                    thread::sleep(Duration::from_millis(10));
                }
                slowest = slowest.max(back.elapsed());
                if back.elapsed() >= bound && !is_leasing() {
                    all.error(format!("{flavor:?}, {layout:?}: no lease within {bound:?}: {}", server.log()));
                }
            });
            all.merge(ids);
        }
        server.kill();
        outcome.take_in(all);
    }
    println!("the slowest refill took {slowest:?}");
    outcome
}

fn leases(server: &Server) -> f64 {
    server.metric("seqsvr_leases_total{outcome=\"ok\"")
}

/// Many ids at once.
fn load_ranges(port: u16) -> Checker {
    let response = get(port, "/new?count=50000&ranges");
    let mut all = Checker::default();
    match crate::support::checker::ids_in(response.body.as_bytes(), true) {
        ids if response.status == 200 && ids.len() == 50_000 => all.add(ids),
        _ => all.error(format!("{response:?}")),
    }
    all
}
