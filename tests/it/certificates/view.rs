//! What the operator sees: the list of certificates, their metrics, and the command that prints them.

use super::files::lines;
use super::{NAME, entry, moment, trusted};
use crate::support::authority::{Authority, Leaf, since_epoch};
use crate::support::pebble::{Pebble, Shape, free_port};
use crate::support::snowbank::{Setup, Snowbank, run};
use serde_json::Value;

/// The value of a metric for this certificate.
#[track_caller]
fn sample(snowbank: &Snowbank, metric: &str, name: &str) -> f64 {
    let page = snowbank.metrics();
    let start = format!("{metric}{{name=\"{name}\"}} ");
    let line = page.lines().find_map(|line| line.strip_prefix(&start));
    line.unwrap_or_else(|| panic!("no {start} in\n{page}")).parse().expect("a number")
}

#[tokio::test]
async fn a_certificate_is_listed_with_its_dates_and_metrics() {
    let pebble = Pebble::start(Shape::default());
    let authority = Authority::new("files of the view");
    let port = free_port();
    let base = Setup::new().admin_port(port);
    let by_file = "file.example.org";
    let pair = authority.issue(&[by_file], Leaf { until: 7200, ..Leaf::default() });
    let files = pair.write(base.home(), "pair");
    let tls = pebble.tls(&[by_file, NAME], "challenge = \"http-01\"");
    let setup = pebble.order(base, &[], "").tls(&format!("{}{tls}", lines(&[&files])));
    let snowbank = setup.start();
    let told = trusted(pebble.secure(), NAME, &pebble.root().await).await;
    // A name that a file covers is not ordered.
    assert_eq!(pebble.issued(), 1);

    let ordered = entry(&snowbank, NAME).expect("an entry");
    assert_eq!(ordered["source"], "acme");
    assert_eq!(moment(&ordered["not_before"]), told.not_before);
    assert_eq!(moment(&ordered["not_after"]), told.not_after);
    assert_eq!(ordered["last_error"], Value::Null);
    let renewal = moment(&ordered["next_renewal"]);
    assert!(renewal > told.not_before && renewal < told.not_after, "{ordered}");
    let from_file = entry(&snowbank, by_file).expect("an entry");
    assert_eq!(from_file["source"], "file");
    assert_eq!(from_file["next_renewal"], Value::Null);
    assert!(from_file["issuer"].as_str().is_some_and(|issuer| issuer.contains("files of the view")), "{from_file}");

    let now = since_epoch().as_secs_f64();
    let left = sample(&snowbank, "snowbank_certificate_expires_in_seconds", by_file);
    assert!((7000.0..=7200.0).contains(&left), "{left}");
    let success = sample(&snowbank, "snowbank_certificate_last_success_timestamp_seconds", NAME);
    assert!((now - 120.0..=now + 2.0).contains(&success), "{success} at {now}");
    the_command_prints_them(&setup, &[by_file, NAME]);
}

fn the_command_prints_them(setup: &Setup, names: &[&str]) {
    let config = setup.home().join("snowbank.toml");
    let output = run(&["certificates", "--config", config.to_str().expect("a path of text")]);
    let table = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for name in names {
        let row = table.lines().find(|line| line.contains(name)).unwrap_or_else(|| panic!("{name}:\n{table}"));
        assert!(row.contains("20"), "a date: {row}");
    }
}

#[test]
fn the_command_says_when_nothing_runs() {
    let setup = Setup::new().admin_port(free_port());
    let config = setup.write();
    let output = run(&["certificates", "--config", config.to_str().expect("a path of text")]);
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(said.lines().count(), 1, "{said}");
}
