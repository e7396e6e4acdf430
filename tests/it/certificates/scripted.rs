//! What only a scripted authority does on demand: renewal information (RFC 9773), rate limits, orders that all fail.

use super::{NAME, entry, moment, shown, stands_in, trusted};
use crate::support::acme_directory::{Directory, Order, Window, after};
use crate::support::authority::since_epoch;
use crate::support::pebble::free_port;
use crate::support::snowbank::{Setup, Snowbank};
use crate::support::trust::eventually;
use std::net::SocketAddr;
use std::time::Duration;

const DAY: i64 = 86_400;
/// A window of a certificate that was issued today.
const FAR: Window = Window { start: 60 * DAY, end: 62 * DAY, retry_after: 21_600 };
/// A window that is over: the certificate will be revoked, say.
const PAST: Window = Window { start: -DAY, end: -DAY / 2, retry_after: 21_600 };

/// A program that orders from this directory, and where its TLS listener is.
fn ordering(directory: &Directory) -> (Setup, SocketAddr) {
    let (plain, secure) = (free_port(), free_port());
    let setup = Setup::new().ports(plain, secure);
    let lines = format!(
        "names = [{NAME:?}]\n[tls.acme]\ndirectory = {:?}\nca_file = {:?}\nchallenge = \"http-01\"",
        directory.url(),
        setup.authority_file(),
    );
    (setup.tls(&lines), ([127, 0, 0, 1], secure).into())
}

#[tokio::test]
async fn a_window_that_is_over_renews_now_and_names_the_certificate_that_is_replaced() {
    // The first certificate gets the bad news as soon as it asks; its successor may stay.
    let directory = Directory::start(90 * DAY, |_| Order::Ready, |nth| Some(if nth == 0 { PAST } else { FAR }));
    let (setup, secure) = ordering(&directory);
    let snowbank = setup.start();
    trusted(secure, NAME, &directory.root()).await;
    eventually("it is renewed", async || directory.orders().len() >= 2).await;
    eventually("it asks about the new one", async || directory.renewals().len() >= 2).await;
    let asked = directory.renewals()[0].target.clone();
    let identifier = asked.strip_prefix("/renewal/").expect("its place");
    // Key identifier, dot, serial number; both base64url.
    assert!(identifier.split('.').count() == 2 && !identifier.contains('='), "{identifier}");
    let orders = directory.orders();
    assert_eq!(orders[0].payload["replaces"], serde_json::Value::Null);
    assert_eq!(orders[1].payload["replaces"], identifier);
    // The successor's window is far: a third order would be a loop.
    let entry = entry(&snowbank, NAME).expect("an entry");
    assert!(entry["next_renewal"].is_string(), "{entry}");
    assert_eq!(directory.orders().len(), 2);
    assert_eq!(directory.accounts().len(), 1);
}

#[tokio::test]
async fn a_window_that_moves_into_the_past_is_noticed_when_the_authority_said() {
    let directory = Directory::start(
        90 * DAY,
        |_| Order::Ready,
        |nth| {
            Some(match nth {
                0 => Window { retry_after: 6, ..FAR },
                1 => PAST,
                _ => FAR,
            })
        },
    );
    let (setup, secure) = ordering(&directory);
    let _snowbank = setup.start();
    let first = trusted(secure, NAME, &directory.root()).await;
    eventually("it asks again", async || directory.renewals().len() >= 2).await;
    let asked = directory.renewals();
    let pause = after(&asked[0], &asked[1]);
    assert!(pause >= Duration::from_secs(6), "it was told 6 seconds, and waited {pause:?}");
    eventually("it is renewed", async || shown(secure, NAME).await.serial != first.serial).await;
    assert_eq!(directory.orders().len(), 2);
}

#[tokio::test]
async fn a_window_that_moves_into_the_past_is_noticed_with_a_reload() {
    let directory = Directory::start(90 * DAY, |_| Order::Ready, |nth| Some(if nth == 1 { PAST } else { FAR }));
    let (setup, secure) = ordering(&directory);
    let snowbank = setup.start();
    let first = trusted(secure, NAME, &directory.root()).await;
    eventually("it asks", async || !directory.renewals().is_empty()).await;
    snowbank.hang_up();
    eventually("it is renewed", async || shown(secure, NAME).await.serial != first.serial).await;
    assert_eq!(directory.orders().len(), 2);
}

#[tokio::test]
async fn without_renewal_information_the_lifetime_decides() {
    let directory = Directory::start(9, |_| Order::Ready, |_| None);
    let (setup, secure) = ordering(&directory);
    let _snowbank = setup.start();
    trusted(secure, NAME, &directory.root()).await;
    eventually("it is renewed", async || directory.orders().len() >= 2).await;
    let orders = directory.orders();
    let pause = after(&orders[0], &orders[1]);
    let due = Duration::from_secs(4)..Duration::from_secs(9);
    assert!(due.contains(&pause), "renewed after {pause:?} of 9 seconds");
}

#[tokio::test]
async fn a_rate_limit_is_waited_for() {
    let limited = |nth| if nth == 0 { Order::Limited(4) } else { Order::Ready };
    let directory = Directory::start(90 * DAY, limited, |_| Some(FAR));
    let (setup, secure) = ordering(&directory);
    let snowbank = setup.start();
    eventually("the limit is told", async || entry(&snowbank, NAME).is_some_and(|e| !e["last_error"].is_null())).await;
    let said = snowbank.warnings_with(&["too many orders, says the script"]);
    assert_eq!(said.len(), 1, "{}", snowbank.log().join("\n"));
    assert!(stands_in(secure, NAME).await);
    // A reload is no reason to ask before the time either.
    snowbank.hang_up();
    eventually("it orders again", async || directory.orders().len() >= 2).await;
    let orders = directory.orders();
    let pause = after(&orders[0], &orders[1]);
    assert!(pause >= Duration::from_secs(4), "it was told 4 seconds, and waited {pause:?}");
    trusted(secure, NAME, &directory.root()).await;
    assert_eq!(directory.orders().len(), 2);
}

/// Waits until the next order is far away.
async fn waits(snowbank: &Snowbank) {
    let soon = i64::try_from(since_epoch().as_secs()).expect("a time") + 30;
    eventually("it waits", async || {
        entry(snowbank, NAME)
            .is_some_and(|entry| entry["next_renewal"].is_string() && moment(&entry["next_renewal"]) > soon)
    })
    .await;
}

#[tokio::test]
async fn orders_that_all_fail_are_few_even_across_restarts() {
    let directory = Directory::start(90 * DAY, |_| Order::Refused, |_| None);
    let (setup, secure) = ordering(&directory);
    for life in 0..4 {
        let snowbank = setup.start();
        waits(&snowbank).await;
        // The impatience of an operator; each reload ends the program's own wait.
        for reload in 0..2 {
            snowbank.hang_up();
            snowbank.log_line("reloaded", reload);
            waits(&snowbank).await;
        }
        if life == 0 {
            let said = snowbank.warnings_with(&["the script refuses this proof"]);
            assert_eq!(said.len(), directory.orders().len(), "{}", snowbank.log().join("\n"));
        }
        assert!(stands_in(secure, NAME).await);
        snowbank.kill();
    }
    let orders = directory.orders().len();
    assert!((1..=5).contains(&orders), "{orders} orders");
    assert_eq!(directory.accounts().len(), 1, "one account for all of them");
}

#[tokio::test]
async fn the_profile_and_the_contact_are_told_to_the_authority() {
    let directory = Directory::start(90 * DAY, |_| Order::Ready, |_| Some(FAR));
    let (setup, secure) = ordering(&directory);
    let lines = format!(
        "names = [{NAME:?}]\n[tls.acme]\ndirectory = {:?}\nca_file = {:?}\nchallenge = \"http-01\"\n\
         contact = [\"mailto:ops@example.org\"]\nprofile = \"shortlived\"",
        directory.url(),
        setup.authority_file(),
    );
    let _snowbank = setup.tls(&lines).start();
    trusted(secure, NAME, &directory.root()).await;
    assert_eq!(directory.orders()[0].payload["profile"], "shortlived");
    assert_eq!(directory.accounts()[0].payload["contact"][0], "mailto:ops@example.org");
}

/// What is noted of the orders for a name: when, and whether each brought something.
fn noted(setup: &Setup, name: &str) -> Vec<serde_json::Value> {
    let acme = setup.dir().join("acme");
    let directory = std::fs::read_dir(acme).expect("a directory").next().expect("one").expect("an entry").path();
    let ledger = std::fs::read(directory.join("ledger.json")).expect("a ledger");
    let ledger: serde_json::Value = serde_json::from_slice(&ledger).expect("JSON");
    ledger[name]["orders"].as_array().cloned().unwrap_or_default()
}

#[tokio::test]
async fn what_the_authority_never_saw_does_not_count_as_an_order() {
    let directory = Directory::start(3, |_| Order::Ready, |_| None);
    let (setup, _) = ordering(&directory);
    let snowbank = setup.start();
    eventually("it renews thrice", async || directory.orders().len() >= 4).await;
    snowbank.kill();
    let (orders, noted) = (directory.orders().len(), noted(&setup, NAME));
    // The last one may have been noted and not made.
    assert!([orders, orders + 1].contains(&noted.len()), "{orders} orders, and noted are {noted:?}");
    let vain = noted.iter().filter(|order| order[1] == false).count();
    assert!(vain <= 1, "{noted:?}");
}

#[tokio::test]
async fn a_name_that_is_taken_out_and_put_back_has_no_more_orders_for_that() {
    let directory = Directory::start(90 * DAY, |_| Order::Refused, |_| None);
    let (setup, _) = ordering(&directory);
    let names =
        |names: &[&str]| setup.config().replacen(&format!("names = [{NAME:?}]"), &format!("names = {names:?}"), 1);
    let snowbank = setup.start();
    waits(&snowbank).await;
    for reload in 0..8 {
        let text = if reload % 2 == 0 { names(&["other.example.org"]) } else { names(&[NAME, "other.example.org"]) };
        snowbank.reload_text(&setup, &text);
        snowbank.log_line("reloaded", reload);
        if reload % 2 == 1 {
            waits(&snowbank).await;
        }
    }
    let is_for = |order: &&crate::support::acme_directory::Asked| order.payload.to_string().contains(NAME);
    let orders = directory.orders().iter().filter(is_for).count();
    assert!((2..=5).contains(&orders), "{orders} orders");
}
