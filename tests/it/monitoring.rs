//! What people look at: the metrics page, the dashboards and the alerts say the same names, and each of them is sound.
//!
//! Names are read out of the expressions by their prefixes; whether an expression as a whole is right, `promtool` says of
//! the rules, with the series of `grafana/tests`.

mod schema;

use crate::support::cache::{Key, Object};
use crate::support::fixture::fixture;
use crate::support::nix::Machine;
use crate::support::origin::{Origin, Reply};
use crate::support::prometheus::Prometheus;
use crate::support::snowbank::{Count, Setup, Snowbank};
use crate::support::static_cache;
use crate::support::trust::eventually;
use serde_json::Value;
use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What the names of all metrics of the page begin with.
const PREFIXES: [&str; 3] = ["snowbank_", "foyer_", "process_"];

fn grafana() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("grafana")
}

fn read(name: &str) -> String {
    std::fs::read_to_string(grafana().join(name)).expect(name)
}

/// The files of a directory that end so, at least one.
fn files(directory: &str, extension: &str) -> Vec<PathBuf> {
    let entries =
        std::fs::read_dir(grafana().join(directory)).expect("a directory").map(|entry| entry.expect("a file"));
    let found: Vec<PathBuf> =
        entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|ext| ext == extension)).collect();
    assert!(!found.is_empty(), "{directory}");
    found
}

/// The dashboards with their file names.
fn dashboards() -> Vec<(String, Value)> {
    let of = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).expect("a file");
        (path.display().to_string(), serde_json::from_str(&text).expect("JSON"))
    };
    files("dashboards", "json").into_iter().map(of).collect()
}

fn panels(dashboard: &Value) -> &Vec<Value> {
    dashboard["panels"].as_array().expect("panels")
}

/// The PromQL of a dashboard: panels and variables.
fn queries(dashboard: &Value) -> Vec<&str> {
    let targets = panels(dashboard).iter().flat_map(|panel| panel["targets"].as_array().expect("targets"));
    let variables = dashboard["templating"]["list"].as_array().expect("variables").iter();
    let asked = variables.filter_map(|variable| variable["query"]["query"].as_str());
    targets.map(|target| target["expr"].as_str().expect("an expression")).chain(asked).collect()
}

/// The expressions of the rules, each on a line of its own.
fn rules(text: &str) -> Vec<&str> {
    text.lines().filter_map(|line| line.trim().strip_prefix("expr: ")).collect()
}

/// The metrics that an expression names.
fn names(expression: &str) -> impl Iterator<Item = &str> {
    let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':');
    words.filter(|word| PREFIXES.iter().any(|prefix| word.starts_with(prefix)))
}

/// Whether an expression asks for `up`, which is Prometheus's own.
fn asks_for_up(expression: &str) -> bool {
    expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').any(|word| word == "up")
}

/// The families of a page, and the names of their series.
fn families(page: &str) -> Vec<(String, Vec<String>)> {
    let types = page.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let of = |line: &str| {
        let (name, kind) = line.split_once(' ').expect("a name and a type");
        let ends: &[&str] = if kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
        (name.to_owned(), ends.iter().map(|end| format!("{name}{end}")).collect())
    };
    types.map(of).collect()
}

/// The server with everything that has metrics of its own.
fn start() -> Snowbank {
    let snowbank = Setup::in_front_of(&Origin::start(), &Key::new("monitoring-1")).start();
    snowbank.wait_for_disk();
    snowbank
}

/// Runs `promtool` and wants it to find nothing wrong.
#[track_caller]
fn promtool(arguments: &[&str], input: &str) {
    let mut command = Command::new("promtool");
    command.args(arguments).current_dir(grafana()).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("promtool is installed");
    // It may end without having read: its status and words say why.
    let _ = child.stdin.take().expect("a pipe").write_all(input.as_bytes());
    let output = child.wait_with_output().expect("it ends");
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "promtool {arguments:?}: {said}");
}

#[tokio::test]
async fn dashboards_and_alerts_name_what_there_is_and_nothing_is_forgotten() {
    let snowbank = start();
    // What differs by answer begins with the first one.
    snowbank.http().get("/nix-cache-info").await.expect(200);
    eventually("it is counted", async || snowbank.metrics().contains("route=\"cache-info\"} 1\n")).await;
    let (_, page) = snowbank.operator("GET", "/metrics", "");
    let families = families(&page);
    let rules_text = read("snowbank.rules.yml");
    assert_eq!(rules(&rules_text).len(), rules_text.matches("- alert: ").count(), "one line for each expression");
    let mut shown: BTreeSet<String> = rules(&rules_text).into_iter().flat_map(names).map(str::to_owned).collect();
    for (file, dashboard) in dashboards() {
        for query in queries(&dashboard) {
            assert!(names(query).next().is_some() || asks_for_up(query), "{file}: {query}");
            shown.extend(names(query).map(str::to_owned));
        }
    }
    let there: BTreeSet<&String> = families.iter().flat_map(|(_, series)| series).collect();
    let absent: Vec<&String> = shown.iter().filter(|name| !there.contains(name)).collect();
    assert!(absent.is_empty(), "not on the page: {absent:?}");
    let detail = read("detail.txt");
    let mut listed = BTreeSet::new();
    for line in detail.lines() {
        let (name, reason) = line.split_once("  ").expect("a name and a reason");
        assert!(!reason.trim().is_empty() && listed.insert(name), "{line}");
        assert!(families.iter().any(|(family, _)| family == name), "{name} is listed and not on the page");
    }
    for (family, series) in &families {
        let drawn = series.iter().any(|name| shown.contains(name));
        assert!(drawn != listed.contains(&**family), "{family}: drawn or alerted on, or in detail.txt, and not both");
    }
}

#[test]
fn each_panel_says_what_it_is_and_stands_in_its_own_place() {
    let mut uids = BTreeSet::new();
    for (file, dashboard) in dashboards() {
        assert!(uids.insert(dashboard["uid"].as_str().expect("a uid").to_owned()), "{file}");
        let variables = dashboard["templating"]["list"].as_array().expect("variables").iter();
        let variables: Vec<&str> = variables.map(|variable| variable["name"].as_str().expect("a name")).collect();
        assert_eq!(variables, ["datasource", "job", "instance"], "{file}");
        let mut ids = BTreeSet::new();
        let mut taken = BTreeSet::new();
        for panel in panels(&dashboard) {
            let title = panel["title"].as_str().expect("a title");
            assert!(ids.insert(panel["id"].as_u64().expect("an id")), "{file}: {title}: its id is another one's");
            for text in [&panel["description"], &panel["fieldConfig"]["defaults"]["unit"]] {
                assert!(text.as_str().is_some_and(|text| !text.is_empty()), "{file}: {title}: description and unit");
            }
            let [x, y, w, h] = ["x", "y", "w", "h"].map(|side| panel["gridPos"][side].as_u64().expect("a number"));
            assert!(w > 0 && h > 0 && x + w <= 24, "{file}: {title}: outside of the grid");
            for cell in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
                assert!(taken.insert(cell), "{file}: {title} lies on another panel");
            }
            for target in panel["targets"].as_array().expect("targets") {
                let expr = target["expr"].as_str().expect("an expression");
                let selected = expr.matches("{job=~\"$job\", instance=~\"$instance\"").count();
                assert!(selected > 0 && selected == expr.matches('{').count(), "{file}: {title}: {expr}");
                assert_eq!(selected, names(expr).count() + usize::from(asks_for_up(expr)), "{file}: {title}: {expr}");
                assert_eq!(target["datasource"]["uid"], "${datasource}", "{file}: {title}");
            }
        }
    }
}

#[test]
fn the_page_is_as_prometheus_wants_it() {
    let snowbank = start();
    let (status, page) = snowbank.operator("GET", "/metrics", "");
    assert_eq!(status, 200);
    promtool(&["check", "metrics"], &page);
    let (status, page) =
        snowbank.operator("GET", "/metrics", "Accept: application/openmetrics-text; version=1.0.0\r\n");
    assert_eq!(status, 200);
    assert!(page.ends_with("\n# EOF\n"), "{}", &page[page.len().saturating_sub(200)..]);
}

#[test]
fn each_alert_says_what_to_do_and_fires_and_is_silent_when_it_should() {
    promtool(&["check", "rules", "snowbank.rules.yml"], "");
    promtool(&["check", "config", "--syntax-only", "prometheus.yml"], "");
    let tests = files("tests", "yml");
    let mut arguments = vec!["test", "rules"];
    arguments.extend(tests.iter().map(|path| path.to_str().expect("a path of text")));
    promtool(&arguments, "");
    let tested: String = tests.iter().map(|path| std::fs::read_to_string(path).expect("a file")).collect();
    let cases: Vec<&str> = tested.split("alertname: ").skip(1).collect();
    let text = read("snowbank.rules.yml");
    for rule in text.split("- alert: ").skip(1) {
        let name = rule.lines().next().expect("a name");
        for annotation in ["summary: ", "description: ", "runbook: "] {
            assert!(rule.contains(annotation), "{name}: {annotation}");
        }
        let of: Vec<bool> = cases
            .iter()
            .filter(|case| case.lines().next() == Some(name))
            .map(|case| case.contains("exp_alerts: []"))
            .collect();
        assert!(
            of.contains(&true) && of.contains(&false),
            "{name} has a case where it fires and one where it does not"
        );
    }
}

#[tokio::test]
async fn the_real_prometheus_finds_every_series_and_counts_what_clients_and_origin_count() {
    let (origin, key) = (Origin::start(), Key::new("monitoring-2"));
    let snowbank = Setup::in_front_of(&origin, &key).start();
    snowbank.wait_for_disk();
    let prometheus = Prometheus::scraping(snowbank.log_after("admin on http://").parse().expect("an address"));
    // A rate is seen between two scrapes: one is before everything that is counted.
    prometheus.eventually("a scrape", || prometheus.sum("up") > 0.0);
    let client = snowbank.https();
    let (mut answers, mut bytes) = (0, 0);
    for n in 0..5 {
        let object = Object::new(&format!("counted-{n}"), 100_000);
        origin.publish(&object, &key);
        for _ in 0..3 {
            let narinfo = client.get(&object.narinfo_target()).await.expect(200);
            let url = narinfo.text().lines().find_map(|line| line.strip_prefix("URL: ")).expect("a URL").to_owned();
            let nar = client.get(&format!("/{url}")).await.expect(200);
            answers += 2;
            bytes += narinfo.body.len() + nar.body.len();
        }
    }
    let number = |count: usize| f64::from(u32::try_from(count).expect("counts of tests are small"));
    // Who asks before the fill has ended follows it.
    let hits = "snowbank_edge_requests_total{outcome=~\"hit|follower\"}";
    for (expression, counted) in [
        ("snowbank_edge_requests_total", number(answers)),
        (hits, number(answers - 10)),
        ("snowbank_edge_response_bytes_total", number(bytes)),
        ("snowbank_upstream_requests_total", number(origin.total())),
        ("snowbank_fill_completed_total", 5.0),
    ] {
        let counts = || prometheus.sum(expression) >= counted;
        prometheus.eventually(expression, counts);
        assert!(
            (prometheus.sum(expression) - counted).abs() < 0.5,
            "{expression}: {} {counted}",
            prometheus.sum(expression)
        );
    }
    prometheus.eventually("a rate", || prometheus.sum("count_over_time(up[5m])") > 2.0);
    for (file, dashboard) in dashboards() {
        for query in queries(&dashboard) {
            // A variable asks for the values of a label: of the series that stand before it.
            let asked = query.strip_prefix("label_values(").and_then(|rest| rest.rsplit_once(','));
            let query = asked.map_or(query, |(series, _)| series);
            let query = query.replace("$job", "snowbank").replace("$instance", ".*");
            let query = query.replace("$__rate_interval", "5m").replace("$__range", "5m");
            assert!(!prometheus.query(&query).is_empty(), "{file}: no series: {query}");
        }
    }
}

/// A real Nix asks what it wants to, and the origin counts: what Prometheus has of it adds up.
#[tokio::test]
async fn a_build_of_real_nix_is_counted_as_the_origin_counts_it() {
    let fixture = fixture();
    let origin = static_cache::serve(&fixture.cache("xz"));
    let snowbank = Setup::in_front_of(&origin, fixture.key()).start();
    snowbank.wait_for_disk();
    let prometheus = Prometheus::scraping(snowbank.log_after("admin on http://").parse().expect("an address"));
    let (url, key) = (snowbank.http_url(), fixture.key().public());
    let build = move || {
        let machine = Machine::new(&[&key]);
        assert_eq!(machine.substitute("everything", &url, None), fixture.path("everything"));
    };
    for round in 1..=2 {
        tokio::task::spawn_blocking(build.clone()).await.expect("it builds");
        eventually("the last fill ends", async || snowbank.counter(Count::FillsRunning) == 0).await;
        let (asked, nars) =
            (origin.total(), origin.requests().iter().filter(|r| r.target.starts_with("/nar/")).count());
        let number = |count: usize| f64::from(u32::try_from(count).expect("counts of tests are small"));
        let served = format!("{round} * snowbank_fill_completed_total");
        for (expression, counted) in [
            ("snowbank_upstream_requests_total", number(asked)),
            ("snowbank_fill_completed_total", number(nars)),
            ("snowbank_edge_requests_total{route=\"nar\",outcome=\"miss\"}", number(nars)),
            ("snowbank_edge_first_byte_seconds_count{route=\"nar\",outcome=\"miss\"}", number(nars)),
        ] {
            prometheus.eventually(expression, || prometheus.sum(expression) >= counted);
            let found = prometheus.sum(expression);
            assert!((found - counted).abs() < 0.5, "{round}, {expression}: {found}, not {counted}");
        }
        // Each machine gets each NAR once, and the second one all of them from here.
        let nars_served = "snowbank_edge_requests_total{route=\"nar\",outcome=~\"miss|hit|follower\"}";
        prometheus.eventually("each NAR", || prometheus.sum(nars_served) >= prometheus.sum(&served));
        assert!((prometheus.sum(nars_served) - prometheus.sum(&served)).abs() < 0.5);
    }
}

/// Each rule with its minutes cut to seconds; those with hours are about more than one outage.
fn hurried(rules: &str) -> String {
    let mut hurried = String::new();
    for line in rules.lines() {
        let line = match line.trim_start().starts_with("for: ") && line.ends_with('m') {
            true => "        for: 1s".to_owned(),
            false => line.replace("[5m]", "[10s]"),
        };
        hurried.push_str(&line);
        hurried.push('\n');
    }
    hurried
}

/// The upstream goes away and comes back: the alerts that should fire do, no other does, and they end.
#[tokio::test]
async fn an_outage_fires_its_alerts_and_they_end_with_it() {
    let (origin, key) = (Origin::start(), Key::new("monitoring-3"));
    let snowbank = Setup::in_front_of(&origin, &key).start();
    snowbank.wait_for_disk();
    let rules = hurried(&read("snowbank.rules.yml"));
    let operators = snowbank.log_after("admin on http://").parse().expect("an address");
    let prometheus = Prometheus::alerting(operators, &rules);
    prometheus.eventually("scrapes", || prometheus.sum("count_over_time(up[5m])") > 2.0);
    let firing = || -> BTreeSet<String> {
        let series = prometheus.query("ALERTS{alertstate=\"firing\"}");
        series.iter().filter_map(|(labels, _)| labels["alertname"].as_str().map(str::to_owned)).collect()
    };
    assert!(firing().is_empty(), "{:?}", firing());
    let address = origin.address();
    let off = origin.switch_off();
    let expected = BTreeSet::from(["SnowbankErrorRatio", "SnowbankUpstreamDown"].map(str::to_owned));
    let mut asked = 0;
    eventually("both of them fire", async || {
        let target = Object::new(&format!("in-vain-{asked}"), 100).narinfo_target();
        asked += 1;
        let status = snowbank.http().get(&target).await.status;
        assert!([502, 503].contains(&status), "{status}");
        firing() == expected
    })
    .await;
    drop(off);
    let origin = Origin::start_at(address);
    origin.otherwise(|_, _| Reply::status(404));
    eventually("they end", async || {
        let target = Object::new(&format!("again-{asked}"), 100).narinfo_target();
        asked += 1;
        snowbank.http().get(&target).await;
        let now = firing();
        assert!(now.is_subset(&expected), "{now:?}");
        now.is_empty()
    })
    .await;
}
