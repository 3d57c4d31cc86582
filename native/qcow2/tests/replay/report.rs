//! What was counted, as Markdown.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::process::Command;
use std::time::Duration;

use qcow2::Repair;

use crate::arguments::Arguments;
use crate::support::fixtures::Format;
use crate::support::history::Feature;
use crate::support::operations::Operation;

/// Where an operation is done, or what happens to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Circumstance {
    File,
    FullDisk,
    Device,
    FailedFlush,
}

/// What the tables call an operation.
pub fn label(operation: &Operation, circumstance: Circumstance) -> &'static str {
    let names = match operation {
        Operation::Create => ["create", "", "create on a device", "create, a flush fails"],
        Operation::Apply(_) | Operation::ApplyDropping(_) => {
            ["apply", "", "apply on a device", "apply, a flush fails"]
        }
        Operation::Delete(_) => {
            ["delete", "delete on a full disk", "delete on a device", "delete, a flush fails"]
        }
        Operation::Rename(..) => ["rename", "", "rename on a device", "rename, a flush fails"],
        Operation::Grow(_) => ["grow", "", "grow on a device", "grow, a flush fails"],
        Operation::Write(_) => ["replace", "", "replace on a device", "replace, a flush fails"],
        Operation::Repair(Repair::Leaks) => [
            "repair leaks",
            "repair leaks on a full disk",
            "repair leaks on a device",
            "repair leaks, a flush fails",
        ],
        Operation::Repair(Repair::All) => [
            "repair all",
            "repair all on a full disk",
            "repair all on a device",
            "repair all, a flush fails",
        ],
    };
    names[circumstance as usize]
}

/// How often something was seen.
type Counts<K> = BTreeMap<K, u64>;

/// What was done and judged.
#[derive(Debug, Default)]
pub struct Report {
    pub seeds: u64,
    /// Operations recorded and cut, by what they are.
    pub operations: Counts<&'static str>,
    /// Operations refused, before they wrote, by what they are.
    pub refused: Counts<&'static str>,
    /// States judged, by operation and format.
    pub cells: Counts<(&'static str, FormatKey)>,
    /// States judged, by what is special about their image.
    pub features: Counts<Feature>,
    /// States that were another of the same epoch byte for byte, and not judged again.
    pub repeated: u64,
    /// States of a repair that were still damaged, and repaired before they were judged.
    pub still_damaged: u64,
    /// States after which another command was run.
    pub went_on: u64,
    /// States shown to `qemu-img check`, and read by qemu-img whole.
    pub checked_by_qemu: u64,
    /// Of the former: of encrypted images, with their key.
    pub checked_with_key: u64,
    pub read_by_qemu: u64,
    /// Clones looked at.
    pub clones: u64,
    /// Failed flushes: settled by the next command, left unsettled, met by none.
    pub flushes: Counts<&'static str>,
    pub elapsed: Duration,
}

/// Version, refcount bits, cluster bytes.
pub type FormatKey = (u32, u32, u64);

pub fn key(format: Format) -> FormatKey {
    (format.version, format.refcount_bits, format.cluster_bytes)
}

/// States a second.
pub fn rate(states: u64, elapsed: Duration) -> u64 {
    u64::try_from(u128::from(states) * 1000 / elapsed.as_millis().max(1)).unwrap()
}

impl Report {
    pub fn states(&self) -> u64 {
        self.cells.values().sum()
    }

    pub fn count(
        &mut self,
        operation: &'static str,
        format: Format,
        features: impl IntoIterator<Item = Feature>,
        states: u64,
    ) {
        *self.cells.entry((operation, key(format))).or_default() += states;
        for feature in features {
            *self.features.entry(feature).or_default() += states;
        }
    }

    pub fn add(&mut self, other: Self) {
        self.seeds += other.seeds;
        self.repeated += other.repeated;
        self.still_damaged += other.still_damaged;
        self.went_on += other.went_on;
        self.checked_by_qemu += other.checked_by_qemu;
        self.checked_with_key += other.checked_with_key;
        self.read_by_qemu += other.read_by_qemu;
        self.clones += other.clones;
        add(&mut self.operations, other.operations);
        add(&mut self.refused, other.refused);
        add(&mut self.cells, other.cells);
        add(&mut self.features, other.features);
        add(&mut self.flushes, other.flushes);
    }

    pub fn markdown(&self, arguments: &Arguments, is_sound: bool) -> String {
        let states = self.states();
        let build = if cfg!(debug_assertions) { "with debug assertions" } else { "release build" };
        let processor = processor_time();
        let mut out = format!(
            "```\ncargo test --release -p qcow2 --test replay -- {}\n```\n\n\
             qcow2 {}, {build}; {}; {} threads\n",
            arguments.text,
            env!("CARGO_PKG_VERSION"),
            version_of_qemu(),
            arguments.threads
        );
        let seconds = |time: Duration| format!("{} s", time.as_secs());
        let rows = [
            ("states judged", states.to_string()),
            ("images (seeds)", self.seeds.to_string()),
            ("operations cut", self.operations.values().sum::<u64>().to_string()),
            ("states byte for byte another of their epoch, not judged again", {
                self.repeated.to_string()
            }),
            ("states of a repair that were still damaged, and repaired then", {
                self.still_damaged.to_string()
            }),
            ("states after which another command was run", self.went_on.to_string()),
            ("states that `qemu-img check` judged too", self.checked_by_qemu.to_string()),
            ("of these, encrypted ones with their key", self.checked_with_key.to_string()),
            ("states that qemu-img read whole", self.read_by_qemu.to_string()),
            ("clones looked at", self.clones.to_string()),
            ("time", seconds(self.elapsed)),
            ("processor time, qemu-img's included", seconds(processor)),
            ("states a second", rate(states, self.elapsed).to_string()),
            ("states a second of processor time", rate(states, processor).to_string()),
            ("errors, leaks that are new, content neither old nor new", {
                if is_sound { "0" } else { "found: see above" }.to_owned()
            }),
        ];
        table(&mut out, "run", "", rows.into_iter());
        self.by_cluster_size(&mut out);
        self.by_width(&mut out);
        let text = |count: &u64| count.to_string();
        let features = self.features.iter().map(|(feature, n)| (feature.name(), text(n)));
        table(&mut out, "images with", "states", features);
        let flushes = self.flushes.iter().map(|(ending, n)| (*ending, text(n)));
        table(&mut out, "after a failed flush", "states", flushes);
        out
    }

    fn by_cluster_size(&self, out: &mut String) {
        let name = |bytes: u64| match bytes {
            0..1024 => format!("{bytes} B"),
            1024..1_048_576 => format!("{} KiB", bytes >> 10),
            _ => format!("{} MiB", bytes >> 20),
        };
        let sizes: Vec<u64> = (9..=21).map(|bits| 1 << bits).collect();
        let head: Vec<_> = sizes.iter().map(|&bytes| name(bytes)).collect();
        self.matrix(out, &head, |(_, _, bytes)| sizes.iter().position(|&b| b == bytes).unwrap());
    }

    fn by_width(&self, out: &mut String) {
        let widths = [1, 2, 4, 8, 16, 32, 64];
        let mut head = vec!["v2".to_owned()];
        head.extend(widths.map(|width| format!("v3, {width} bit")));
        self.matrix(out, &head, |(version, width, _)| match version {
            2 => 0,
            _ => 1 + widths.iter().position(|&w| w == width).unwrap(),
        });
    }

    /// States by operation, and by what `column` makes of the format.
    fn matrix(&self, out: &mut String, head: &[String], column: impl Fn(FormatKey) -> usize) {
        writeln!(out, "\n| states | done | refused | all | {} |", head.join(" | ")).unwrap();
        writeln!(out, "|---{}|", "|--:".repeat(head.len() + 3)).unwrap();
        let mut rows: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
        for (&(operation, format), &states) in &self.cells {
            let row = rows.entry(operation).or_insert_with(|| vec![0; head.len()]);
            row[column(format)] += states;
        }
        for &operation in self.refused.keys() {
            rows.entry(operation).or_insert_with(|| vec![0; head.len()]);
        }
        for (operation, row) in rows {
            let of = |counts: &Counts<&str>| counts.get(operation).copied().unwrap_or(0);
            let (done, refused) = (of(&self.operations), of(&self.refused));
            let all: u64 = row.iter().sum();
            let cells: Vec<_> = row.iter().map(u64::to_string).collect();
            let cells = cells.join(" | ");
            writeln!(out, "| {operation} | {done} | {refused} | {all} | {cells} |").unwrap();
        }
    }
}

fn add<K: Ord>(into: &mut Counts<K>, from: Counts<K>) {
    for (key, count) in from {
        *into.entry(key).or_default() += count;
    }
}

fn table<'a>(
    out: &mut String,
    head: &str,
    value: &str,
    rows: impl Iterator<Item = (&'a str, String)>,
) {
    writeln!(out, "\n| {head} | {value} |\n|---|--:|").unwrap();
    for (name, value) in rows {
        writeln!(out, "| {name} | {value} |").unwrap();
    }
}

/// What this process and its children have used of all processors.
fn processor_time() -> Duration {
    const TICK: Duration = Duration::from_millis(10);
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // Behind the name, which may contain anything: user, system, and both of the children.
    let fields = text.rsplit(") ").next().unwrap_or_default().split(' ');
    let ticks: u32 = fields.skip(11).take(4).filter_map(|field| field.parse::<u32>().ok()).sum();
    TICK * ticks
}

fn version_of_qemu() -> String {
    let output = Command::new("qemu-img").arg("--version").output();
    let text = output.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
    text.lines().next().unwrap_or("no qemu-img").to_owned()
}
