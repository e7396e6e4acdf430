//! Which spaces are asked, in which order, and what they say together.

use super::super::answer::Reply;
use super::super::testing::{HASH, hash};
use super::*;
use crate::fill::Fills;
use crate::metrics::Metrics;
use crate::options::Table as _;
use crate::proxy::{Proxy, sign};
use crate::store::Store;
use crate::upstream::testing::{Origin, Step, answer, not_found};

/// A visitor that may see private upstreams.
const INSIDE: Visitor<'static> =
    Visitor { address: None, listener: Some("inside"), certificate: &[], authorization: None, prefetch: None };
/// One that may not.
const OUTSIDE: Visitor<'static> = Visitor { listener: None, ..INSIDE };

/// An origin whose narinfo has a URL that tells whose it is.
async fn having(size: u64) -> Origin {
    Origin::start(move |request| match request.target.ends_with("narinfo") {
        true => answer("200 OK", narinfo(size)),
        false => not_found(),
    })
    .await
}

fn narinfo(size: u64) -> String {
    let nar = crate::nix::hash::Sha256::of(&size.to_le_bytes());
    format!(
        "StorePath: /nix/store/{HASH}-x\nURL: nar/x\nCompression: none\nNarHash: {nar}\nNarSize: {size}\nReferences: \n"
    )
}

async fn empty() -> Origin {
    Origin::start(|_| not_found()).await
}

async fn broken() -> Origin {
    Origin::start(|_| vec![Step::Reset]).await
}

/// A proxy whose private upstreams are all granted at the listener `inside`.
fn proxy(upstreams: &[Arc<Upstream>]) -> Proxy {
    let metrics = Metrics::default();
    let store = Store::memory_only(&crate::store::Options::from_toml("").unwrap(), metrics.store.clone());
    let fills = Fills::new(store.clone(), 8, metrics.fill);
    Proxy::new(policies(upstreams), store, fills, metrics.proxy).unwrap()
}

fn policies(upstreams: &[Arc<Upstream>]) -> Policies {
    let names: Vec<&str> = upstreams.iter().map(|upstream| upstream.name().as_ref()).collect();
    let table = format!("upstreams = {names:?}\nlisteners = ['inside']");
    let access = Access::load(&[crate::access::Options::from_toml(&table).unwrap()]).unwrap();
    let signer = sign::Signer::new(sign::Options::from_toml("").unwrap(), Vec::new());
    Policies::new(&Options::from_toml("prefetch = '0 B'").unwrap(), upstreams.to_vec(), signer, access)
}

fn private(origin: &Origin, rank: u32, name: &str) -> Arc<Upstream> {
    origin.upstream(rank, &format!("name = '{name}'\nprivate = true"))
}

/// `NarSize` of the narinfo that is served, by which its origin is told; or the kind of failure.
async fn asked(proxy: &Proxy, visitor: &Visitor<'_>) -> Result<(u64, bool), FailureKind> {
    let said = proxy.answer(Request::NarInfo(hash(HASH)), false, visitor).await;
    match said.reply {
        Reply::Failed(failure) => Err(failure.kind),
        Reply::Object(object) => {
            let super::super::answer::ObjectBody::Whole(text) = object.body else { panic!("a narinfo is whole") };
            let text = String::from_utf8(text.to_vec()).unwrap();
            let size = text.lines().find_map(|line| line.strip_prefix("NarSize: ")).unwrap();
            Ok((size.parse().unwrap(), said.private))
        }
        Reply::Nar(_) => panic!("a narinfo was asked for"),
    }
}

#[tokio::test]
async fn who_may_not_see_a_private_upstream_has_it_neither_asked_nor_served_from_the_store() {
    let (public, work) = (empty().await, having(1).await);
    let proxy = proxy(&[public.upstream(10, "name = 'public'"), private(&work, 20, "work")]);
    for _ in 0..2 {
        assert_eq!(asked(&proxy, &OUTSIDE).await, Err(FailureKind::NotFound));
    }
    assert_eq!((public.asked("narinfo"), work.asked("narinfo")), (1, 0));
    assert_eq!(asked(&proxy, &INSIDE).await, Ok((1, true)));
    assert_eq!(asked(&proxy, &OUTSIDE).await, Err(FailureKind::NotFound), "although it is here");
    assert_eq!(asked(&proxy, &INSIDE).await, Ok((1, true)));
    assert_eq!((public.asked("narinfo"), work.asked("narinfo")), (1, 1));
}

#[tokio::test]
async fn spaces_are_asked_in_the_order_of_their_priorities_and_the_first_that_has_it_is_enough() {
    let (public, before, after) = (having(1).await, having(2).await, having(3).await);
    let upstreams =
        [private(&after, 20, "after"), public.upstream(10, "name = 'public'"), private(&before, 5, "before")];
    let whole = proxy(&upstreams);
    assert_eq!(asked(&whole, &INSIDE).await, Ok((2, true)));
    assert_eq!(asked(&whole, &OUTSIDE).await, Ok((1, false)));
    assert_eq!(after.asked("narinfo"), 0);
    assert_eq!(
        asked(&proxy(&upstreams[..2]), &INSIDE).await,
        Ok((1, false)),
        "the same rank or a later one: public first"
    );
}

#[tokio::test]
async fn two_private_upstreams_never_mix() {
    let (one, other) = (having(1).await, having(2).await);
    let table = |upstream: &str, listener: &str| {
        let table = format!("upstreams = ['{upstream}']\nlisteners = ['{listener}']");
        crate::access::Options::from_toml(&table).unwrap()
    };
    let proxy = proxy(&[private(&one, 10, "one"), private(&other, 20, "other")]);
    let signer = sign::Signer::new(sign::Options::from_toml("").unwrap(), Vec::new());
    let access = Access::load(&[table("one", "a"), table("other", "b")]).unwrap();
    let upstreams = vec![private(&one, 10, "one"), private(&other, 20, "other")];
    proxy.reload(Policies::new(&Options::from_toml("prefetch = '0 B'").unwrap(), upstreams, signer, access)).unwrap();
    for _ in 0..2 {
        assert_eq!(asked(&proxy, &Visitor { listener: Some("a"), ..OUTSIDE }).await, Ok((1, true)));
        assert_eq!(asked(&proxy, &Visitor { listener: Some("b"), ..OUTSIDE }).await, Ok((2, true)));
        assert_eq!(asked(&proxy, &INSIDE).await, Err(FailureKind::NotFound), "granted before the reload");
    }
    assert_eq!((one.asked("narinfo"), other.asked("narinfo")), (1, 1));
}

#[tokio::test]
async fn unknown_of_any_space_that_is_asked_is_no_404_and_of_one_that_is_not_is_nothing() {
    let (public, work) = (empty().await, broken().await);
    let upstreams = [public.upstream(10, "name = 'public'"), private(&work, 20, "work")];
    let whole = proxy(&upstreams);
    assert_eq!(asked(&whole, &OUTSIDE).await, Err(FailureKind::NotFound));
    assert!(matches!(asked(&whole, &INSIDE).await, Err(FailureKind::BadGateway | FailureKind::Unavailable { .. })));
    // The other way round, and with one behind that has it.
    let (public, work, third) = (broken().await, empty().await, having(3).await);
    let mut upstreams = vec![public.upstream(10, "name = 'public'"), private(&work, 20, "work")];
    assert!(matches!(
        asked(&proxy(&upstreams), &INSIDE).await,
        Err(FailureKind::BadGateway | FailureKind::Unavailable { .. })
    ));
    upstreams.push(private(&third, 30, "third"));
    assert_eq!(asked(&proxy(&upstreams), &INSIDE).await, Ok((3, true)));
}

#[tokio::test]
async fn what_is_kept_of_a_private_upstream_outlives_reloads_and_its_absence() {
    let (public, work) = (empty().await, having(1).await);
    let upstreams = [public.upstream(10, "name = 'public'"), private(&work, 20, "work")];
    let proxy = proxy(&upstreams);
    assert_eq!(asked(&proxy, &INSIDE).await, Ok((1, true)));
    proxy.reload(policies(&upstreams[..1])).unwrap();
    assert_eq!(asked(&proxy, &INSIDE).await, Err(FailureKind::NotFound));
    proxy.reload(policies(&upstreams)).unwrap();
    assert_eq!(asked(&proxy, &INSIDE).await, Ok((1, true)));
    assert_eq!(work.asked("narinfo"), 1);
    // Under another name it is another space.
    proxy.reload(policies(&[public.upstream(10, "name = 'public'"), private(&work, 20, "else")])).unwrap();
    assert_eq!(asked(&proxy, &INSIDE).await, Ok((1, true)));
    assert_eq!(work.asked("narinfo"), 2);
}

#[tokio::test]
async fn without_a_public_upstream_everybody_else_finds_nothing() {
    let work = having(1).await;
    let proxy = proxy(&[private(&work, 20, "work")]);
    assert_eq!(asked(&proxy, &OUTSIDE).await, Err(FailureKind::NotFound));
    assert_eq!(asked(&proxy, &INSIDE).await, Ok((1, true)));
}

#[tokio::test]
async fn an_examination_sees_every_space() {
    let (public, work) = (having(1).await, having(2).await);
    let upstreams = [public.upstream(10, "name = 'public'"), private(&work, 20, "work")];
    let proxy = proxy(&upstreams);
    asked(&proxy, &OUTSIDE).await.unwrap();
    let work_first = [public.upstream(10, "name = 'public'"), private(&work, 5, "work")];
    proxy.reload(policies(&work_first)).unwrap();
    assert_eq!(asked(&proxy, &INSIDE).await, Ok((2, true)));
    proxy.in_force.load_full().finish().await;
    let how = super::super::examine::How { everything: true, mend: false, pause: std::time::Duration::ZERO };
    let report = proxy.examine(how, |_| {}).await;
    assert_eq!((report.narinfos, report.unused_narinfos, report.wrong()), (2, 0, 0), "{}", report.json());
    // Nobody's: what is kept of an upstream that is not configured.
    proxy.reload(policies(&upstreams[..1])).unwrap();
    let without = proxy.examine(how, |_| {}).await;
    assert_eq!((without.narinfos, without.wrong()), (1, 0), "{}", without.json());
    assert!(without.others > report.others);
}

#[tokio::test]
async fn who_takes_over_the_name_of_a_private_upstream_does_not_take_over_what_is_kept() {
    let (old, new) = (having(1).await, empty().await);
    let proxy = proxy(&[private(&old, 10, "work")]);
    assert_eq!(asked(&proxy, &INSIDE).await, Ok((1, true)));
    proxy.reload(policies(&[private(&new, 10, "work")])).unwrap();
    assert_eq!(asked(&proxy, &INSIDE).await, Err(FailureKind::NotFound));
    proxy.reload(policies(&[private(&old, 10, "work")])).unwrap();
    assert_eq!(asked(&proxy, &INSIDE).await, Ok((1, true)));
    assert_eq!(old.asked("narinfo"), 1);
}
