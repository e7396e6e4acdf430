//! Who is shown credentials, and what of them is told.

use std::fs;
use std::path::PathBuf;

use super::*;

fn file(dir: &tempfile::TempDir, name: &str, text: &str) -> PathBuf {
    let path = dir.path().join(name);
    fs::write(&path, text).unwrap();
    path
}

fn shown(origin: &Origin) -> Vec<String> {
    let of = |head: &String| head.lines().find_map(|line| line.strip_prefix("authorization: ")).map(str::to_owned);
    origin.heads().iter().map(|head| of(head).unwrap_or_default()).collect()
}

#[tokio::test]
async fn each_kind_is_shown_to_the_configured_address_and_not_elsewhere() {
    let dir = tempfile::tempdir().unwrap();
    let netrc =
        file(&dir, "netrc", "machine other password no\nmachine 127.0.0.1 login u password p\ndefault password no");
    let token = file(&dir, "token", "eyJ.t0ken\n");
    let password = file(&dir, "password", "pass word\r\n");
    for (more, expected) in [
        (format!("netrc_file = '{}'", netrc.display()), "Basic dTpw"),
        (format!("token_file = '{}'", token.display()), "Bearer eyJ.t0ken"),
        (format!("user = 'me'\npassword_file = '{}'", password.display()), "Basic bWU6cGFzcyB3b3Jk"),
    ] {
        let bucket = Origin::start(|_| answer("200 OK", "it")).await;
        let location = format!("http://{}/there", bucket.address);
        let cache = Origin::start(move |request| match request.target.as_str() {
            "/away" => redirect(307, &location),
            "/round" => redirect(307, "/here"),
            _ => answer("200 OK", "it"),
        })
        .await;
        let upstream = named(&cache, &more);
        for path in ["here", "away", "round"] {
            assert_eq!(small(&upstream, path).await, "it");
        }
        assert!(matches!(nar(&upstream, "/away", 1).await, Ok(Said::Have(_))));
        assert_eq!(shown(&cache), vec![expected; 5]);
        assert_eq!(shown(&bucket), ["", ""]);
        let debug = format!("{upstream:?}");
        for secret in ["t0ken", "pass word", expected] {
            assert!(!debug.contains(secret), "{debug}");
        }
    }
}

#[tokio::test]
async fn what_is_refused_is_unknown_and_told_by_its_kind() {
    let dir = tempfile::tempdir().unwrap();
    let token = file(&dir, "token", "t0ken");
    let token = format!("token_file = '{}'", token.display());
    for (status, told) in [
        ("401 Unauthorized", "upstream test refused the token from its token_file: 401 Unauthorized"),
        ("403 Forbidden", "upstream test refused the token from its token_file: 403 Forbidden"),
    ] {
        let cache = Origin::start(move |_| answer(status, "no")).await;
        assert_eq!(small(&named(&cache, &token), "x").await, told);
        assert_eq!(nar(&named(&cache, &token), "/x", 0).await.unwrap_err().to_string(), told);
        let without = small(&named(&cache, ""), "x").await;
        match status {
            "401 Unauthorized" => assert!(without.starts_with("upstream test wants credentials"), "{without}"),
            _ => assert_eq!(without, "upstream test answered 403 Forbidden"),
        }
    }
}

#[tokio::test]
async fn a_changed_file_is_read_again_when_the_old_is_refused_and_a_broken_one_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = file(&dir, "token", "old");
    let cache = Origin::start(|request| match request.head.contains("authorization: Bearer new\r\n") {
        true => answer("200 OK", "it"),
        false => answer("401 Unauthorized", "no"),
    })
    .await;
    let upstream = named(&cache, &format!("token_file = '{}'", path.display()));
    assert!(small(&upstream, "x").await.contains("refused"));
    fs::write(&path, "new").unwrap();
    assert_eq!(small(&upstream, "x").await, "it");
    for broken in ["", "two\nlines"] {
        fs::write(&path, broken).unwrap();
        assert_eq!(small(&upstream, "x").await, "it");
    }
    fs::remove_file(&path).unwrap();
    assert_eq!(small(&upstream, "x").await, "it");
    let before = shown(&cache);
    assert_eq!(before, ["Bearer old", "Bearer old", "Bearer new", "Bearer new", "Bearer new", "Bearer new"]);
}

#[test]
fn a_file_that_cannot_be_used_is_told_without_its_text() {
    let dir = tempfile::tempdir().unwrap();
    let (missing, table) = (dir.path().join("none"), dir.path().to_owned());
    for (path, key) in [
        (missing, "token_file"),
        (table, "token_file"),
        (file(&dir, "empty", "\n"), "token_file"),
        (file(&dir, "two", "s3cret\ns3cret"), "token_file"),
        (file(&dir, "netrc", "machine a password \"s3cret"), "netrc_file"),
    ] {
        let toml = format!("url = 'http://a'\ntrust = 'origin'\n{key} = '{}'", path.display());
        let options: crate::upstream::Options = crate::options::Table::from_toml(&toml).unwrap();
        let mut mistakes = crate::options::Mistakes::default();
        options.check_files("upstream[0]", &mut mistakes);
        let told = mistakes.to_string();
        assert!(
            told.starts_with(&format!("upstream[0].{key}: {}", path.display())) && !told.contains("s3cret"),
            "{told}"
        );
        assert!(Upstream::new(options, 1, crate::metrics::Metrics::default().upstream("x")).is_err());
    }
}

#[test]
fn one_kind_is_given_and_a_user_with_a_password() {
    for (more, told) in [
        ("netrc_file = 'a'\ntoken_file = 'b'", "upstream[0].token_file: netrc_file is given too"),
        ("user = 'a'", "upstream[0].password_file: missing"),
        ("password_file = 'a'", "upstream[0].user: missing"),
        ("user = 'a:b'\npassword_file = 'a'", "upstream[0].user = \"a:b\""),
    ] {
        let toml = format!("url = 'http://a'\ntrust = 'origin'\n{more}");
        let options: crate::upstream::Options = crate::options::Table::from_toml(&toml).unwrap();
        let mut mistakes = crate::options::Mistakes::default();
        options.check("upstream[0]", &mut mistakes);
        assert!(mistakes.to_string().starts_with(told), "{mistakes}");
    }
}
