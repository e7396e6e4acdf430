use std::sync::Arc;

use super::*;
use crate::fill::code_of;
use crate::nix::signature::Signature;
use crate::nix::store_path::StoreDir;
use crate::options::Table as _;
use crate::proxy::policy::Policy;
use crate::proxy::sign::secret_key::SecretKey;
use crate::proxy::sign::{self, Signer, UpstreamSignatures};
use crate::proxy::testing::{
    HASH, Theirs, addressed, dir, file_nar, hash, ours, path, pipeline, policy, under, unsigned, upstream, upstream_at,
};
use crate::store::{Announced, Inside};

const LIFETIME: Lifetime = Lifetime { fetched: UnixSeconds(1), expires: UnixSeconds(2) };

fn verified(pipeline: &Pipeline, info: &NarInfo, upstream: &Upstream) -> Verified {
    let text = info.render(&dir());
    Verified::check(text.as_bytes(), info.store_path.hash(), upstream, pipeline.policy.rules()).unwrap()
}

fn parsed(text: &Bytes) -> NarInfo {
    NarInfo::parse_rendered(text, &dir()).unwrap()
}

fn again(key: &SecretKey) -> SecretKey {
    SecretKey::parse(&key.to_text()).unwrap()
}

#[test]
fn r5_our_signatures_and_theirs_can_be_told_apart_in_any_text() {
    let theirs = [Theirs::new("cache-1", 1), Theirs::new("cache-2", 2), Theirs::new("cache-3", 3)];
    let our_keys = [ours("ours-1"), ours("ours-2")];
    let upstream = upstream("origin", &[&theirs[0]]);
    let nar = file_nar(b"x");
    let extra = vec![("X-Sig".to_owned(), "Sig: a:b".to_owned()), ("Zzz".to_owned(), String::new())];
    let full = NarInfo { deriver: Some(path(hash(HASH), "x.drv")), extra, ..addressed(&nar) };
    for (base, their_count, our_count, forged) in [unsigned(&nar), addressed(&nar), full]
        .iter()
        .flat_map(|base| (0..4).map(move |n| (base, n)))
        .flat_map(|(base, n)| (0..3).map(move |m| (base, n, m)))
        .flat_map(|(base, n, m)| [false, true].map(|forged| (base, n, m, forged)))
    {
        let mut info = base.clone();
        // Somebody else's signatures under our names, before and between the others.
        let forge = |n: u8| Signature { name: format!("ours-{n}"), bytes: [n; 64] };
        info.sigs.extend(forged.then(|| forge(1)));
        info.sigs.extend(theirs[..their_count].iter().map(|key| key.sign(base)));
        info.sigs.extend(forged.then(|| forge(2)));
        let keys: Vec<SecretKey> = our_keys[..our_count].iter().map(again).collect();
        let public: Vec<_> = keys.iter().map(SecretKey::public).collect();
        let pipeline = pipeline(policy(&[Arc::clone(&upstream)], keys));
        let mut seen = verified(&pipeline, &info, &upstream);
        seen = seen.seen_in(&manifest(base));
        let entry = pipeline.entry_of(&upstream, &seen, LIFETIME);

        let is_ours = |sig: &Signature| public.iter().any(|key| key.name() == sig.name);
        let all = parsed(&entry.body);
        let (ours, rest): (Vec<_>, Vec<_>) = all.sigs.iter().cloned().partition(is_ours);
        assert_eq!(ours.len(), our_count);
        let fingerprint = all.fingerprint(&dir());
        assert!(public.iter().zip(&ours).all(|(key, sig)| key.verifies(sig, fingerprint.as_bytes())));
        assert_eq!(all.sigs[..our_count], ours, "ours come first");
        assert_eq!(rest, info.sigs.iter().filter(|sig| !is_ours(sig)).cloned().collect::<Vec<_>>());
        assert_eq!(NarInfo { sigs: Vec::new(), ..all.clone() }, NarInfo { sigs: Vec::new(), ..seen.served(&dir()) });
        assert_eq!(parsed(&entry.without_ours()), NarInfo { sigs: rest, ..all.clone() });
        assert_eq!(parsed(&entry.without_theirs()), NarInfo { sigs: ours, ..all.clone() });
        assert_eq!(Entry::decode(&entry.encode()), Some(entry.clone()));
        assert_eq!(entry.note, "nar/x.nar");
    }
}

/// A manifest that shows that this uncompressed NAR is what `info` says.
fn manifest(info: &NarInfo) -> Manifest {
    let (nar_hash, nar_size) = (*info.nar_hash.as_bytes(), info.nar_size);
    let store_hash = *info.store_path.hash().as_bytes();
    Manifest {
        blob: Meant::by(info).blob(),
        size: 0,
        file_hash: nar_hash,
        compression: code_of(info.compression),
        inside: Some(Inside { nar_hash, nar_size, addressed: true }),
        announced: Some(Announced { store_hash, nar_hash, nar_size, basis: [0; 16] }),
        digests: Vec::new(),
    }
}

#[test]
fn theirs_are_left_out_only_where_ours_stand() {
    let (key, upstream) = (Theirs::new("cache-1", 1), upstream("keys", &[&Theirs::new("cache-1", 1)]));
    let of = |drop: UpstreamSignatures, keys: Vec<SecretKey>| {
        let options = sign::Options { upstream_signatures: drop, ..sign::Options::from_toml("").unwrap() };
        let options = (crate::proxy::Options::from_toml("").unwrap(), Signer::new(options, keys));
        let pipeline = pipeline(Policy::new(options.0, vec![Arc::clone(&upstream)], options.1));
        let info = key.signed(&unsigned(&file_nar(b"x")));
        let entry = pipeline.entry_of(&upstream, &verified(&pipeline, &info, &upstream), LIFETIME);
        parsed(&pipeline.served(&entry)).sigs.iter().map(|sig| sig.name.clone()).collect::<Vec<_>>()
    };
    assert_eq!(of(UpstreamSignatures::Keep, vec![ours("ours-1")]), ["ours-1", "cache-1"]);
    assert_eq!(of(UpstreamSignatures::Drop, vec![ours("ours-1")]), ["ours-1"]);
    assert_eq!(of(UpstreamSignatures::Drop, Vec::new()), ["cache-1"], "never without any");
}

#[tokio::test]
async fn r5_what_is_kept_lives_as_long_as_what_it_rests_on() {
    let (one, two) = (Theirs::new("cache-1", 1), Theirs::new("cache-2", 2));
    let (here, there) = ("http://127.0.0.1:1/cache", "http://127.0.0.1:2/cache");
    let nar = file_nar(b"x");
    let (plain, signed, content) = (unsigned(&nar), one.signed(&unsigned(&nar)), addressed(&nar));
    let both: &[&Theirs] = &[&one, &two];
    // What is kept, under which trust and keys; what is configured later; whether it lives.
    let cases = [
        (&signed, "keys", both, (here, "keys", both), true),
        (&signed, "keys", both, (here, "keys", &[&one][..]), true),
        (&signed, "keys", both, (here, "keys", &[&two][..]), false),
        (&signed, "keys", both, (there, "keys", both), true),
        (&signed, "keys", both, (here, "origin", &[][..]), true),
        (&signed, "keys", both, (there, "origin", &[][..]), false),
        (&signed, "keys", both, (there, "pass", both), false),
        (&plain, "origin", both, (here, "origin", &[][..]), true),
        (&plain, "origin", both, (there, "origin", both), false),
        (&plain, "origin", both, (here, "keys", both), false),
        (&plain, "origin", both, (here, "pass", both), true),
        (&plain, "pass", both, (there, "pass", both), false),
        (&content, "keys", both, (there, "keys", &[&two][..]), true),
        (&content, "keys", both, (there, "pass", both), false),
    ];
    for (info, trust, keys, (url, trust_now, keys_now), lives) in cases {
        let upstream = upstream_at(here, "a", trust, keys);
        let before = pipeline(policy(&[Arc::clone(&upstream)], Vec::new()));
        let kept = before.keep(&upstream, &verified(&before, info, &upstream), LIFETIME).await;
        let hash = info.store_path.hash();
        assert_eq!(before.kept_entry(hash).await, Some(kept.clone()));
        let after = under(&before, policy(&[upstream_at(url, "a", trust_now, keys_now)], Vec::new()));
        let found = after.kept_entry(hash).await;
        let case = format!("{trust} {info:?} under {url} {trust_now} {keys_now:?}");
        assert_eq!(found.is_some(), lives, "{case}");
        let left = after.shared.store.entry(narinfo_key(hash)).await.and_then(|bytes| Entry::decode(&bytes));
        assert_eq!(left, found, "{case}: what is dropped is gone, what is accepted anew is kept so");
        if let Some(found) = found {
            assert_eq!((found.fetched, found.expires), (LIFETIME.fetched, LIFETIME.expires));
            assert_eq!((found.body.clone(), found.note.clone()), (kept.body, kept.note));
            assert_eq!(after.kept_entry(hash).await, Some(found));
        }
    }
}

#[tokio::test]
async fn r5_another_store_directory_or_no_such_upstream_is_a_miss() {
    let key = Theirs::new("cache-1", 1);
    let upstream = upstream("keys", &[&key]);
    let before = pipeline(policy(&[Arc::clone(&upstream)], Vec::new()));
    let info = key.signed(&unsigned(&file_nar(b"x")));
    before.keep(&upstream, &verified(&before, &info, &upstream), LIFETIME).await;
    let renamed = policy(&[upstream_at("http://127.0.0.1:1/cache", "b", "keys", &[&key])], Vec::new());
    assert_eq!(under(&before, renamed).kept_entry(hash(HASH)).await, None);
    assert!(before.kept_entry(hash(HASH)).await.is_some(), "it may come back");
    let store_dir = StoreDir::parse("/srv/store").unwrap();
    let options = crate::proxy::Options { store_dir, ..crate::proxy::Options::from_toml("").unwrap() };
    let signer = Signer::new(sign::Options::from_toml("").unwrap(), Vec::new());
    let elsewhere = under(&before, Policy::new(options, vec![upstream], signer));
    assert_eq!(elsewhere.kept_entry(hash(HASH)).await, None);
    assert_eq!(before.kept_entry(hash(HASH)).await, None, "it is gone for good");
}

#[tokio::test]
async fn r5_other_keys_of_ours_sign_what_is_kept_anew() {
    let key = Theirs::new("cache-1", 1);
    let upstream = upstream("keys", &[&key]);
    let (old, new) = (ours("ours-1"), ours("ours-2"));
    let at = |keys: Vec<SecretKey>| policy(&[Arc::clone(&upstream)], keys);
    let before = pipeline(at(vec![again(&old)]));
    let info = key.signed(&unsigned(&file_nar(b"x")));
    before.keep(&upstream, &verified(&before, &info, &upstream), LIFETIME).await;
    for (keys, names) in [
        (vec![again(&old), again(&new)], &["ours-1", "ours-2", "cache-1"][..]),
        (vec![again(&new)], &["ours-2", "cache-1"]),
        (Vec::new(), &["cache-1"]),
    ] {
        let entry = under(&before, at(keys)).kept_entry(hash(HASH)).await.unwrap();
        assert_eq!(parsed(&entry.body).sigs.iter().map(|sig| &*sig.name).collect::<Vec<_>>(), names);
    }
}

#[tokio::test]
async fn r3_a_nar_that_is_here_and_was_seen_for_another_path_signs_nothing_here() {
    let upstream = upstream("keys", &[&Theirs::new("cache-1", 1)]);
    let pipeline = pipeline(policy(&[Arc::clone(&upstream)], vec![ours("ours-1")]));
    let info = addressed(&file_nar(b"x"));
    let seen = async || pipeline.seen(verified(&pipeline, &info, &upstream)).await.is_proven();
    assert!(!seen().await, "it is not here");
    let mine = manifest(&info);
    let others = mine.announced.map(|announced| Announced { store_hash: *hash(HASH).as_bytes(), ..announced });
    for (manifest, proven) in [
        (Manifest { announced: others, ..mine.clone() }, false),
        (Manifest { inside: None, ..mine.clone() }, false),
        (Manifest { compression: 7, ..mine.clone() }, false),
        (mine, true),
    ] {
        pipeline.shared.store.remove_manifest(manifest.blob);
        pipeline.shared.store.keep_body(Arc::new(manifest.clone())).await;
        assert_eq!(seen().await, proven, "{manifest:?}");
    }
}

/// What is still being answered under a policy when another one is put in force costs nothing that the next one keeps.
#[tokio::test]
async fn p8_what_was_asked_before_a_reload_leaves_what_is_kept_since() {
    let (one, two) = (Theirs::new("cache-1", 1), Theirs::new("cache-2", 2));
    let (old, new) = (upstream("keys", &[&one]), upstream("keys", &[&two]));
    let before = pipeline(policy(&[Arc::clone(&old)], Vec::new()));
    let after = under(&before, policy(&[Arc::clone(&new)], Vec::new()));
    let plain = unsigned(&file_nar(b"x"));
    let kept = after.keep(&new, &verified(&after, &two.signed(&plain), &new), LIFETIME).await;
    before.policy.retire();
    assert_eq!(before.kept_entry(hash(HASH)).await, None, "no key that is trusted under it signed this");
    assert_eq!(after.kept_entry(hash(HASH)).await, Some(kept.clone()));
    before.keep(&old, &verified(&before, &one.signed(&plain), &old), LIFETIME).await;
    before.withhold(hash(HASH), &plain, &old, "it is gone").await;
    assert_eq!(after.kept_entry(hash(HASH)).await, Some(kept));
    // It is the policy in force that drops what it does not believe.
    let third = under(&before, policy(&[old], Vec::new()));
    assert_eq!(third.kept_entry(hash(HASH)).await, None);
    assert_eq!(after.kept_entry(hash(HASH)).await, None);
}
