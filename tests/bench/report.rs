//! The table for people and the JSON for programs: medians, best rounds, and how snowbank's compare with each other server's.

use crate::bench::Bench;
use crate::machine;
use crate::peers::Kind;
use crate::rounds::{Metric, Row, Sample};
use serde_json::{Value, json};
use std::fmt::Write as _;
use time::OffsetDateTime;

/// One number of one server over all rounds.
struct Figure {
    name: &'static str,
    samples: Vec<f64>,
    median: f64,
    best: f64,
}

impl Figure {
    fn of(metric: Metric, name: &'static str, samples: &[Sample]) -> Option<Self> {
        let value = |sample: &Sample| sample.iter().find(|(other, _)| *other == metric).map(|(_, value)| *value);
        let samples: Vec<f64> = samples.iter().filter_map(value).collect();
        let mut sorted = samples.clone();
        sorted.sort_by(f64::total_cmp);
        let (low, high) = (*sorted.first()?, *sorted.last()?);
        let best = if metric.more_is_better { high } else { low };
        let middle = sorted.len() / 2;
        let median =
            if sorted.len() % 2 == 1 { sorted[middle] } else { f64::midpoint(sorted[middle - 1], sorted[middle]) };
        Some(Self { name, samples, median, best })
    }
}

fn figures(row: &Row) -> Vec<(Metric, Vec<Figure>)> {
    let metrics =
        row.series.first().and_then(|(_, samples)| samples.first()).into_iter().flatten().map(|(metric, _)| *metric);
    metrics
        .map(|metric| {
            (metric, row.series.iter().filter_map(|(name, samples)| Figure::of(metric, name, samples)).collect())
        })
        .collect()
}

/// The table of one row: a line for each number, a column for each server, with the ratio of snowbank's median to its
/// median and of snowbank's best round to its best.
pub fn table(row: &Row) -> String {
    let mut text = format!("\n{}: {}\n{:36}", row.case, row.variant, "  median (ratio of medians, of best)");
    for (name, _) in &row.series {
        let _ = write!(text, "{name:>26}");
    }
    for (metric, figures) in figures(row) {
        let _ = write!(text, "\n  {:34}", metric.name);
        let own = figures.iter().find(|figure| figure.name == Kind::Snowbank.name());
        for figure in &figures {
            let ratios = own.filter(|own| own.name != figure.name).and_then(|own| {
                let (median, best) = (ratio(own.median, figure.median)?, ratio(own.best, figure.best)?);
                Some(format!(" ({median:.2} x, {best:.2} x)"))
            });
            let cell = format!("{}{}", short(figure.median), ratios.unwrap_or_default());
            let _ = write!(text, "{cell:>26}");
        }
    }
    text
}

/// Three digits that count.
fn short(value: f64) -> String {
    match value.abs() {
        large if large >= 100.0 => format!("{value:.0}"),
        large if large >= 10.0 => format!("{value:.1}"),
        large if large >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// Nothing of nothing is no ratio.
fn ratio(own: f64, other: f64) -> Option<f64> {
    (other != 0.0).then_some(own / other)
}

/// Prints what the figures were made with.
pub fn close(bench: &Bench) {
    let machine = machine::describe();
    let told =
        ["cpu", "kernel", "congestion_control"].map(|name| machine[name].as_str().unwrap_or_default().to_owned());
    println!("\n{}, {}, {} rounds", today(), told.join(", "), bench.options.rounds());
    for (kind, version) in versions(bench) {
        println!("{}: {version}", kind.name());
    }
    if bench.options.newer_nginx.is_none() {
        println!("NOT MEASURED: a newer nginx; tests/bench/newer-nginx builds one");
    }
    if bench.options.short {
        println!("the short form: that it runs is all that it shows, its numbers mean nothing");
    }
}

/// Writes everything so far to the file that was asked for.
pub fn write_json(bench: &Bench, rows: &[Row]) {
    let Some(file) = &bench.options.json else { return };
    let versions: serde_json::Map<String, Value> =
        versions(bench).into_iter().map(|(kind, text)| (kind.name().to_owned(), text.into())).collect();
    let document = json!({
        "date": today(),
        "command": command(bench),
        "short": bench.options.short,
        "rounds": bench.options.rounds(),
        "machine": machine::describe(),
        "versions": versions,
        "rows": rows.iter().map(in_json).collect::<Vec<_>>(),
    });
    let text = serde_json::to_string_pretty(&document).expect("numbers and words");
    std::fs::write(file, text + "\n").unwrap_or_else(|error| panic!("{}: {error}", file.display()));
}

fn today() -> String {
    OffsetDateTime::now_utc().date().to_string()
}

fn versions(bench: &Bench) -> Vec<(Kind, String)> {
    let kinds = bench.present(&[Kind::Snowbank, Kind::Nginx, Kind::NewerNginx, Kind::Haproxy]);
    kinds.into_iter().map(|kind| (kind, kind.version(bench))).collect()
}

/// The command that makes this again.
fn command(bench: &Bench) -> String {
    let mut text = format!("tests/bench/run --rounds {}", bench.options.rounds());
    for case in &bench.options.cases {
        let _ = write!(text, " --case {case}");
    }
    if bench.options.short {
        text.push_str(" --short");
    }
    text
}

fn in_json(row: &Row) -> Value {
    let metrics = figures(row).into_iter().map(|(metric, figures)| {
        let own = figures.iter().find(|figure| figure.name == Kind::Snowbank.name()).map(|own| (own.median, own.best));
        let servers = figures.iter().map(|figure| {
            let ratios = own.filter(|_| figure.name != Kind::Snowbank.name());
            let value = json!({
                "samples": figure.samples,
                "median": figure.median,
                "best": figure.best,
                "ratio_of_medians": ratios.and_then(|(median, _)| ratio(median, figure.median)),
                "ratio_of_best": ratios.and_then(|(_, best)| ratio(best, figure.best)),
            });
            (figure.name.to_owned(), value)
        });
        let servers: serde_json::Map<String, Value> = servers.collect();
        json!({ "name": metric.name, "more_is_better": metric.more_is_better, "servers": servers })
    });
    json!({ "case": row.case, "variant": row.variant, "metrics": metrics.collect::<Vec<_>>() })
}
