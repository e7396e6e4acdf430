//! When a change of an option takes effect: with a reload, or with the next start only.
//!
//! Every option stands here, by itself or with its table, so that one is told of each change that a reload does not make. A
//! test holds this against the options there are.

use crate::config::Config;
use crate::options::{Table as _, key};

/// Read once, at the start.
const NEXT_START: &[&str] =
    &["listen", "limits.connections", "limits.handshakes", "store", "cache.fills", "admin", "log", "shutdown"];

/// Put in force by a reload.
#[cfg(test)]
const RELOAD: &[&str] = &[
    "upstream",
    "library",
    "access",
    "cache.store_dir",
    "cache.priority",
    "cache.priority_for",
    "cache.want_mass_query",
    "cache.negative_ttl",
    "cache.verify",
    "cache.page",
    "cache.prefetch",
    "cache.prefetch_budget",
    "cache.prefetch_known",
    "cache.prefetch_references",
    "limits.bytes",
    "limits.requests",
    "limits.client",
    "sign",
    "tls",
];

/// What differs between the configuration that runs and another one, and is not taken over from that by a reload.
pub(super) fn with_the_next_start(runs: &Config, read: &Config) -> Vec<String> {
    let mut changed = changes(&runs.write_table(), &read.write_table(), "");
    changed.retain(|option| is_among(NEXT_START, option));
    changed
}

/// Whether the option, or a table that it is in, is listed.
fn is_among(listed: &[&str], option: &str) -> bool {
    let is_of = |table: &str| option.strip_prefix(table).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
    listed.iter().any(|listed| is_of(listed))
}

/// The options that differ; a list of tables is one option.
fn changes(one: &toml::Table, other: &toml::Table, at: &str) -> Vec<String> {
    let added = other.keys().filter(|name| !one.contains_key(*name));
    let mut changed = Vec::new();
    for name in one.keys().chain(added) {
        let place = key(at, name);
        match (one.get(name), other.get(name)) {
            (Some(toml::Value::Table(one)), Some(toml::Value::Table(other))) => {
                changed.extend(changes(one, other, &place));
            }
            (one, other) if one != other => changed.push(place),
            _ => {}
        }
    }
    changed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Environment;
    use crate::options::{Description, Mistakes, Shape};

    /// With the tables that are not there by themselves.
    const OPTIONAL: &str = "[tls.acme]\ndirectory = 'https://ca.example.org'\n[library]\nurl = 'file:///srv/library'";

    /// Every option that there is, those in tables by their places.
    fn options(description: &Description, at: &str) -> Vec<String> {
        let below = |field: &crate::options::Field| match field.shape {
            Shape::Table(inner) => options(inner, &key(at, field.name)),
            Shape::Plain | Shape::Tables(_) => vec![key(at, field.name)],
        };
        description.fields.iter().flat_map(below).collect()
    }

    #[test]
    fn of_every_option_it_is_known_when_it_takes_effect() {
        let options = options(&Config::DESCRIPTION, "");
        assert!(options.len() > 20, "{options:?}");
        for option in &options {
            let (restart, reload) = (is_among(NEXT_START, option), is_among(RELOAD, option));
            assert!(restart != reload, "{option} stands in {}", if restart { "both lists" } else { "neither list" });
        }
        for listed in NEXT_START.iter().chain(RELOAD) {
            assert!(options.iter().any(|option| is_among(&[listed], option)), "there is no {listed}");
        }
    }

    #[test]
    fn each_change_is_seen_and_named() {
        let mut mistakes = Mistakes::default();
        let root = Environment { root: true, ..Environment::default() };
        let config = Config::read(OPTIONAL, &root, &mut mistakes).unwrap();
        let table = config.write_table();
        for option in options(&Config::DESCRIPTION, "") {
            let mut other = table.clone();
            let (tables, name) = option.rsplit_once('.').unwrap_or(("", &option));
            let inner = tables
                .split('.')
                .filter(|name| !name.is_empty())
                .try_fold(&mut other, |table, name| table.get_mut(name)?.as_table_mut());
            inner.expect(&option).insert(name.to_owned(), "something else".into());
            assert_eq!(changes(&table, &other, ""), [option.as_str()]);
            assert_eq!(changes(&other, &table, ""), [option]);
        }
        assert!(changes(&table, &table, "").is_empty());
    }

    #[test]
    fn what_waits_for_the_next_start_is_told_and_nothing_else() {
        let read = |text: &str| {
            let root = Environment { root: true, ..Environment::default() };
            Config::read(text, &root, &mut Mistakes::default()).expect(text)
        };
        let told = |text: &str| with_the_next_start(&read(""), &read(text));
        assert_eq!(told("[cache]\npriority = 1\nverify = 'off'\n[tls]\nnames = ['a.example.org']"), [""; 0]);
        assert_eq!(told("[store]\ndisk = '1 GiB'\n[cache]\nfills = 3\npriority = 1"), ["cache.fills", "store.disk"]);
        assert_eq!(told("[[listen]]\naddress = '127.0.0.1:1'\ntls = false"), ["listen"]);
        assert_eq!(told("[admin]\naddress = '127.0.0.1:1'"), ["admin.address"]);
    }
}
