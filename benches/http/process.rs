//! What the processes of a server have used, as the kernel counts it.

use std::fs;
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

/// The processor time of process `pid`, of its children that run, and of those that it has waited for.
pub fn cpu(pid: u32) -> Duration {
    let children: Duration = children(pid).into_iter().map(child_cpu).sum();
    ticks(pid, 4) + children
}

/// The processor time of this process alone: the servers are its children.
pub fn own_cpu() -> Duration {
    ticks(std::process::id(), 2)
}

/// To the nanosecond where the kernel tells it: each of many children may use little, and a tick is 10 ms.
fn child_cpu(pid: u32) -> Duration {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().filter_map(Result::ok);
    let nanoseconds = threads.map(|thread| {
        let text = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<u64>().ok()
    });
    nanoseconds.sum::<Option<u64>>().filter(|sum| *sum > 0).map_or_else(|| ticks(pid, 2), Duration::from_nanos)
}

/// The processor time of all processes together, and what the hypervisor has given to others.
pub fn everyone() -> Duration {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = stat.lines().next().and_then(|line| line.strip_prefix("cpu")).unwrap_or_default();
    let fields: Vec<u64> = line.split_whitespace().filter_map(|ticks| ticks.parse().ok()).collect();
    // user, nice, system; interrupts, which are counted to processes too; steal. What is left out is idling.
    let ticks: u64 = [0, 1, 2, 5, 6, 7].iter().filter_map(|field| fields.get(*field)).sum();
    Duration::from_secs_f64(ticks as f64 / ticks_per_second())
}

/// The resident memory of process `pid` and its children, in bytes. Where there are several processes, what they share
/// is counted once.
pub fn resident(pid: u32) -> u64 {
    let children = children(pid);
    if children.is_empty() {
        return field(pid, "status", "VmRSS:");
    }
    children.into_iter().chain([pid]).map(|pid| field(pid, "smaps_rollup", "Pss:")).sum()
}

/// The first `count` of utime, stime, and the same of the children that were waited for. Zero for who has ended.
fn ticks(pid: u32, count: usize) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name, in brackets, may have blanks in it; utime is the 12th field behind it.
    let fields = stat.rsplit_once(") ").map_or("", |(_, fields)| fields);
    let ticks: u64 = fields.split(' ').skip(11).take(count).filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
    Duration::from_secs_f64(ticks as f64 / ticks_per_second())
}

fn children(pid: u32) -> Vec<u32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().filter_map(Result::ok);
    let lists = threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    lists.flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()).collect()
}

/// A size in one of the process's files, in bytes.
fn field(pid: u32, file: &str, name: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let kilobytes: Option<u64> = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    kilobytes.unwrap_or(0) << 10
}

fn ticks_per_second() -> f64 {
    static HERTZ: OnceLock<f64> = OnceLock::new();
    *HERTZ.get_or_init(|| {
        let output = Command::new("getconf").arg("CLK_TCK").output().expect("getconf runs");
        String::from_utf8_lossy(&output.stdout).trim().parse().expect("a number of ticks a second")
    })
}
