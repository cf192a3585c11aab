//! What is compared, and the bounds that belong to it. In the order of the results.

use crate::bench::Bench;

mod memory;
mod own;
mod side_by_side;
mod start;

/// A scenario measures, reports, and leaves its bounds.
pub type Scenario = fn(&mut Bench);

pub const SCENARIOS: [(&str, Scenario); 11] = [
    ("in_process", memory::in_process),
    ("new", side_by_side::new),
    ("pipelined", side_by_side::pipelined),
    ("peers", side_by_side::peers),
    ("ranges", own::ranges),
    ("step", own::step),
    ("connections", own::connections),
    ("named", own::named),
    ("scraped", own::scraped),
    ("start", start::start),
    ("wrk", side_by_side::wrk),
];
