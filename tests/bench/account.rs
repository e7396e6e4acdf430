//! What a server's processes took: CPU time and memory, of its main process and all that it started.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::Duration;

/// The CPU time that a server had taken at some moment.
pub struct Cpu {
    /// On which thread how many nanoseconds were spent.
    threads: BTreeMap<u32, u64>,
    /// User and system, of all processes and their dead children, in whole ticks.
    ticks: u64,
}

impl Cpu {
    /// Read now.
    pub fn of(server: u32) -> Self {
        let processes = tree(server);
        let threads = processes.iter().flat_map(|process| threads(*process)).collect();
        Self { threads, ticks: processes.iter().map(|process| ticks(*process)).sum() }
    }

    /// What was spent since an earlier moment.
    pub fn since(&self, earlier: &Self) -> Duration {
        // To the nanosecond, unless a thread has ended and took its account with it.
        if earlier.threads.keys().all(|thread| self.threads.contains_key(thread)) {
            let spent = |(thread, now): (&u32, &u64)| now - earlier.threads.get(thread).copied().unwrap_or(0);
            return Duration::from_nanos(self.threads.iter().map(spent).sum());
        }
        let ticks = self.ticks.saturating_sub(earlier.ticks);
        Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
    }
}

/// This process and its descendants.
pub fn tree(root: u32) -> BTreeSet<u32> {
    let parents: Vec<(u32, u32)> = processes().filter_map(|process| Some((process, stat(process)?.parent))).collect();
    let mut found = BTreeSet::from([root]);
    loop {
        let before = found.len();
        found.extend(
            parents
                .iter()
                .filter(|(_, parent)| found.contains(parent))
                .map(|(process, _)| *process)
                .collect::<Vec<_>>(),
        );
        if found.len() == before {
            return found;
        }
    }
}

/// Proportional set size in bytes, of all processes: what several share is counted once.
pub fn memory(server: u32) -> u64 {
    let pss = |process: u32| {
        let text = crate::machine::field(&format!("/proc/{process}/smaps_rollup"), "Pss");
        text.split(' ').next().and_then(|number| number.parse::<u64>().ok()).unwrap_or(0) * 1024
    };
    tree(server).into_iter().map(pss).sum()
}

/// Bytes that all processes had read from block devices, not from the page cache.
pub fn read_from_disk(server: u32) -> u64 {
    let read =
        |process: u32| crate::machine::field(&format!("/proc/{process}/io"), "read_bytes").parse::<u64>().unwrap_or(0);
    tree(server).into_iter().map(read).sum()
}

fn processes() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").expect("/proc is mounted");
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

fn threads(process: u32) -> Vec<(u32, u64)> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{process}/task")) else { return Vec::new() };
    let read = |thread: u32| {
        let text = fs::read_to_string(format!("/proc/{process}/task/{thread}/schedstat")).ok()?;
        Some((thread, text.split(' ').next()?.parse().ok()?))
    };
    tasks.filter_map(|task| read(task.ok()?.file_name().to_str()?.parse().ok()?)).collect()
}

fn ticks(process: u32) -> u64 {
    stat(process).map_or(0, |stat| stat.ticks)
}

struct Stat {
    parent: u32,
    ticks: u64,
}

fn stat(process: u32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name in front may hold anything, brackets too.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |n: usize| fields.get(n)?.parse::<u64>().ok();
    // proc(5): the 4th field is the parent, 14 to 17 are user and system, of itself and of dead children.
    let ticks = number(11)? + number(12)? + number(13)? + number(14)?;
    Some(Stat { parent: fields.get(1)?.parse().ok()?, ticks })
}
