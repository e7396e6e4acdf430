//! Buckets on raw sockets: what is asked, how it is signed, and what is made of the answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::keys::Keys;
use super::*;
use crate::metrics::Metrics;
use crate::options::Table as _;
use crate::upstream::testing::{Origin, Request, Step, answer, answer_with};
use crate::upstream::tests::{nar, small};
use crate::upstream::url::Place;
use crate::upstream::{Said, Upstream};

fn error(status: &str, code: &str) -> Vec<Step> {
    answer(status, format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>x</Message></Error>"))
}

fn missing() -> Vec<Step> {
    error("404 Not Found", "NoSuchKey")
}

fn denied() -> Vec<Step> {
    error("403 Forbidden", "AccessDenied")
}

fn options(origin: &Origin, more: &str) -> Options {
    let url = format!("s3://cache/pre?endpoint=http://{}&region=eu-west-1", origin.address);
    Options::from_toml(&format!("url = '{url}'\nname = 'test'\ntrust = 'origin'\n{more}")).unwrap()
}

fn upstream(origin: &Origin, more: &str) -> Arc<Upstream> {
    let more =
        if more.contains("credentials") { more.to_owned() } else { format!("credentials = 'anonymous'\n{more}") };
    Upstream::new(options(origin, &more), 10, Metrics::default().upstream("test")).unwrap()
}

/// A file of keys, and the line that names it.
fn keys_file(key_id: &str) -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    write_keys(dir.path(), key_id);
    let line = format!("credentials_file = '{}'", dir.path().join("keys").display());
    (dir, line)
}

fn write_keys(dir: &std::path::Path, key_id: &str) {
    let text =
        format!("[default]\naws_access_key_id = {key_id}\naws_secret_access_key = s3cret\naws_session_token = t0ken\n");
    std::fs::write(dir.join("keys"), text).unwrap();
}

#[tokio::test]
async fn a_request_is_signed_for_the_bucket_and_its_region_and_the_range_is_not() {
    let origin = Origin::start(|request| match request.range {
        Some((4, None)) => {
            answer_with("206 Partial Content", "Content-Range: bytes 4-9/10\r\nETag: \"e\"\r\n", "456789")
        }
        _ => answer("200 OK", "0123456789"),
    })
    .await;
    let (_dir, line) = keys_file("AKID");
    let upstream = upstream(&origin, &line);
    assert_eq!(small(&upstream, "x.narinfo").await, "0123456789");
    let Ok(Said::Have(part)) = nar(&upstream, "/cache/pre/nar/a+b=c?d.nar", 4).await else { panic!() };
    assert_eq!(part, (4, b"456789".to_vec()));
    assert_eq!(origin.asked("/cache/pre/nar/a%2Bb%3Dc%3Fd.nar"), 1, "no query: it is part of the name");
    for head in origin.heads() {
        let signed = "SignedHeaders=host;x-amz-content-sha256;x-amz-date;x-amz-security-token, Signature=";
        assert!(head.contains("authorization: AWS4-HMAC-SHA256 Credential=AKID/"), "{head}");
        assert!(head.contains("/eu-west-1/s3/aws4_request") && head.contains(signed), "{head}");
        assert!(head.contains("x-amz-security-token: t0ken\r\n") && !head.contains("s3cret"), "{head}");
    }
    let shown = format!("{upstream:?}");
    assert!(!shown.contains("s3cret") && !shown.contains("t0ken"), "{shown}");
}

#[tokio::test]
async fn r14_nothing_outside_of_the_bucket_is_asked_for() {
    let origin = Origin::start(|_| answer("200 OK", "secret")).await;
    let upstream = upstream(&origin, "");
    for target in
        ["/other/nar/x", "/cache/other/x", "/cache/prefix/x", "/cache/pre/../x", "/cache/pre//x", "/cache/pre/%2e"]
    {
        assert!(nar(&upstream, target, 0).await.is_err(), "{target}");
    }
    assert_eq!(origin.asked(""), 0);
}

#[tokio::test]
async fn r18_denied_means_missing_while_the_cache_info_may_be_read() {
    let origin = Origin::start(|request| match request.target.as_str() {
        "/cache/pre/nix-cache-info" => answer("200 OK", "StoreDir: /nix/store\n"),
        _ => denied(),
    })
    .await;
    let upstream = upstream(&origin, "");
    assert_eq!(small(&upstream, "x.narinfo").await, "have not");
    assert!(matches!(nar(&upstream, "/cache/pre/nar/x", 0).await, Ok(Said::HaveNot)));
    assert_eq!(origin.asked("nix-cache-info"), 1, "it is remembered");
    assert!(origin.heads().iter().all(|head| !head.contains("authorization")), "anonymous");
}

#[tokio::test]
async fn r18_denied_is_unknown_where_nothing_may_be_read_unless_declared() {
    let origin = Origin::start(|_| denied()).await;
    let said = small(&upstream(&origin, ""), "x").await;
    assert!(
        said.starts_with("upstream test answered 403 Forbidden (AccessDenied) without credentials, for its"),
        "{said}"
    );
    assert_eq!(small(&upstream(&origin, "forbidden = 'have-not'"), "x").await, "have not");
    let asked = origin.asked("nix-cache-info");
    assert_eq!(small(&upstream(&origin, "forbidden = 'unknown'"), "x").await, "upstream test answered 403 Forbidden");
    assert_eq!(origin.asked("nix-cache-info"), asked);
    let without = Origin::start(|request| if request.target.ends_with("info") { missing() } else { denied() }).await;
    let said = small(&upstream(&without, ""), "x").await;
    assert!(said.contains("it has no nix-cache-info"), "{said}");
}

#[tokio::test]
async fn r18_what_is_wrong_with_a_bucket_is_told() {
    let (_dir, keys) = keys_file("AKID");
    for (status, code, told) in [
        ("404 Not Found", "NoSuchKey", "have not"),
        ("404 Not Found", "NoSuchBucket", "upstream test has no bucket `cache` (NoSuchBucket): look at its url"),
        (
            "403 Forbidden",
            "SignatureDoesNotMatch",
            "upstream test refused the keys from its credentials_file as SignatureDoesNotMatch: 403 Forbidden",
        ),
        ("503 Slow Down", "SlowDown", "upstream test answered 503 Service Unavailable"),
    ] {
        let origin = Origin::start(move |_| error(status, code)).await;
        for more in [keys.clone(), format!("{keys}\nforbidden = 'have-not'")] {
            assert_eq!(small(&upstream(&origin, &more), "x").await, told);
        }
    }
    let moved = Origin::start(|_| answer_with("301 Moved", "x-amz-bucket-region: us-west-2\r\n", "")).await;
    let said = small(&upstream(&moved, ""), "x").await;
    assert!(said.ends_with("the bucket is in the region `us-west-2`: set `region` in its url"), "{said}");
    let page = Origin::start(|_| answer("404 Not Found", "<html>nothing here")).await;
    let said = small(&upstream(&page, ""), "x").await;
    assert!(said.contains("answered 404 Not Found in another way than buckets do"), "{said}");
}

#[tokio::test]
async fn keys_that_are_refused_are_read_again() {
    let (dir, line) = keys_file("OLD");
    let origin = Origin::start(|request| match request.head.contains("Credential=NEW/") {
        true => answer("200 OK", "in"),
        false => error("403 Forbidden", "ExpiredToken"),
    })
    .await;
    let upstream = upstream(&origin, &line);
    assert!(small(&upstream, "x").await.contains("as ExpiredToken"));
    assert_eq!(origin.asked("/x"), 1, "the same keys are not shown twice");
    write_keys(dir.path(), "NEW");
    assert_eq!(small(&upstream, "x").await, "in");
}

/// The keys that this environment gives.
async fn environment(more: &str, variables: &[(&str, String)]) -> Result<Option<String>, String> {
    let origin = Origin::start(|_| missing()).await;
    let options = options(&origin, more);
    let Place::Bucket(bucket) = options.url.place() else { panic!() };
    let variable = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.clone());
    let keys = Keys::with_environment(&options, bucket, &variable)?;
    let held = keys.current().await.map_err(|cause| cause.to_string())?;
    Ok(held.map(|held| format!("{} {} {:?}", held.key_id, held.secret_key, held.token)))
}

#[tokio::test]
async fn the_environment_names_keys_or_there_are_none() {
    let pair = [("AWS_ACCESS_KEY_ID", "AK".to_owned()), ("AWS_SECRET_ACCESS_KEY", "sk".to_owned())];
    assert_eq!(environment("", &[]).await, Ok(None));
    assert_eq!(environment("", &pair).await, Ok(Some("AK sk None".into())));
    assert_eq!(environment("credentials = 'anonymous'", &pair).await, Ok(None));
    let half = environment("", &pair[..1]).await.unwrap_err();
    assert!(half.starts_with("the keys from the environment cannot be used"), "{half}");
}

const ISSUED: &str =
    r#"{"AccessKeyId":"ROLE","SecretAccessKey":"sk","Token":"tk","Expiration":"2999-01-01T00:00:00Z"}"#;

#[tokio::test]
async fn keys_of_a_container_an_instance_and_a_web_identity_are_fetched() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("token"), "jwt").unwrap();
    let token = dir.path().join("token").display().to_string();
    let issued = Ok(Some("ROLE sk Some(\"tk\")".into()));
    let tried = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&tried);
    let giver = Origin::start(move |request: &Request| match request.target.as_str() {
        "/pod" if request.head.contains("authorization: jwt\r\n") => answer("200 OK", ISSUED),
        "/latest/api/token" if request.head.starts_with("PUT") => answer("200 OK", "session"),
        "/latest/meta-data/iam/security-credentials/" => answer("200 OK", "role"),
        "/latest/meta-data/iam/security-credentials/role" => answer("200 OK", ISSUED),
        target if target.contains("WebIdentityToken=jwt") => answer(
            "200 OK",
            "<A><AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>ROLE</AccessKeyId><SecretAccessKey>sk\
             </SecretAccessKey><SessionToken>tk</SessionToken><Expiration>2999-01-01T00:00:00Z</Expiration></Credentials>\
             </AssumeRoleWithWebIdentityResult></A>",
        ),
        _ => {
            counted.fetch_add(1, Ordering::Relaxed);
            answer("500 Broken", "broken")
        }
    })
    .await;
    let at = |path: &str| format!("http://{}{path}", giver.address);
    let pod = |path: &str| {
        let uri = ("AWS_CONTAINER_CREDENTIALS_FULL_URI", at(path));
        [uri, ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", token.clone())]
    };
    assert_eq!(environment("", &pod("/pod")).await, issued);
    let instance = [("AWS_EC2_METADATA_SERVICE_ENDPOINT", at("/"))];
    assert_eq!(environment("credentials = 'instance'", &instance).await, issued);
    let web = [
        ("AWS_WEB_IDENTITY_TOKEN_FILE", token.clone()),
        ("AWS_ROLE_ARN", "arn:role".to_owned()),
        ("AWS_ENDPOINT_URL_STS", at("")),
    ];
    assert_eq!(environment("", &web).await, issued);
    let failed = environment("", &pod("/broken")).await.unwrap_err();
    assert!(failed.starts_with("could not be asked: the keys of its container's role could not be got: "), "{failed}");
    let web = web
        .map(|(name, value)| if name == "AWS_WEB_IDENTITY_TOKEN_FILE" { (name, value + "2") } else { (name, value) });
    std::fs::write(dir.path().join("token2"), "s3cret").unwrap();
    let failed = environment("", &web).await.unwrap_err();
    assert!(failed.contains("the keys of its web identity could not be got") && !failed.contains("s3cret"), "{failed}");
    assert_eq!(tried.load(Ordering::Relaxed), 2, "nothing is tried again behind our back");
}
