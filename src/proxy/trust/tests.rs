use super::*;
use crate::fill::code_of;
use crate::nix::base32;
use crate::proxy::policy::Policy;
use crate::proxy::sign::{self, Signer};
use crate::proxy::testing::{
    HASH, Theirs, addressed, addressed_by, compressed, dir, file_nar, hash, path, unsigned, upstream, upstream_at,
};
use crate::store::{Announced, BlobId, Inside};

const TRUSTS: [&str; 3] = ["keys", "origin", "pass"];

fn key() -> Theirs {
    Theirs::new("cache-1", 1)
}

fn plain() -> NarInfo {
    unsigned(&file_nar(b"x"))
}

fn check_with(info: &NarInfo, upstream: &Upstream, verify: Verify) -> Result<Verified, Refused> {
    let rules = Rules { dir: &dir(), verify };
    Verified::check(info.render(&dir()).as_bytes(), info.store_path.hash(), upstream, rules)
}

fn check(info: &NarInfo, upstream: &Upstream) -> Result<Verified, Refused> {
    check_with(info, upstream, Verify::Background)
}

fn reason(checked: Result<Verified, Refused>) -> Option<Refusal> {
    checked.err().map(|refused| refused.reason)
}

fn voucher_of(checked: Result<Verified, Refused>) -> Result<(Voucher, Ground), Refusal> {
    checked.map(|verified| (verified.voucher(), verified.ground())).map_err(|refused| refused.reason)
}

#[test]
fn r1_who_vouches_by_trust_and_by_what_the_narinfo_has() {
    let key = key();
    let (signed, content) = (key.signed(&plain()), addressed(&file_nar(b"x")));
    let both = key.signed(&content);
    let forged = NarInfo { nar_size: signed.nar_size, sigs: key.signed(&content).sigs, ..plain() };
    let by_key = Ok((Voucher::Key, Ground::key(&key.public(), &dir())));
    let by_content = Ok((Voucher::ContentAddress, Ground::content(&dir())));
    let no = Err(Refusal::Untrusted);
    for trust in TRUSTS {
        let upstream = upstream(trust, &[&key]);
        let word = Ground::word(&upstream, &dir());
        let (operator, nobody) = (Ok((Voucher::Operator, word)), Ok((Voucher::Nobody, word)));
        let expected = match trust {
            "keys" => [by_key, by_content, by_key, no, no],
            "origin" => [by_key, by_content, by_key, operator, operator],
            _ => [nobody; 5],
        };
        for (info, expected) in [&signed, &content, &both, &plain(), &forged].into_iter().zip(expected) {
            assert_eq!(voucher_of(check(info, &upstream)), expected, "{trust}: {info:?}");
        }
    }
}

#[test]
fn r1_a_signature_counts_by_a_key_of_this_upstream_and_for_this_content_alone() {
    let (mine, other) = (key(), Theirs::new("cache-2", 2));
    let namesake = Theirs::new("cache-1", 3);
    let (a, b) = (upstream("keys", &[&mine]), upstream("keys", &[&other]));
    assert_eq!(reason(check(&mine.signed(&plain()), &a)), None);
    assert_eq!(reason(check(&mine.signed(&plain()), &b)), Some(Refusal::Untrusted), "a key of another upstream");
    assert_eq!(reason(check(&namesake.signed(&plain()), &a)), Some(Refusal::Untrusted), "a name is no key");
    let renamed = NarInfo { sigs: vec![Signature { name: "cache-2".into(), ..mine.sign(&plain()) }], ..plain() };
    assert_eq!(reason(check(&renamed, &upstream("keys", &[&mine, &other]))), Some(Refusal::Untrusted));

    let signed = mine.signed(&plain());
    let me = signed.store_path.clone();
    for changed in [
        NarInfo { nar_hash: Sha256::of(b"y"), ..signed.clone() },
        NarInfo { nar_size: 7, ..signed.clone() },
        NarInfo { references: vec![me], ..signed.clone() },
        NarInfo { store_path: path(hash(HASH), "y"), ..signed.clone() },
        NarInfo { store_path: path(hash("0000000000000000000000000000000a"), "x"), ..signed.clone() },
    ] {
        let refused = check(&changed, &a).unwrap_err();
        assert_eq!(refused.reason, Refusal::Untrusted, "{changed:?}");
        let told = "trusted for this upstream (cache-1); those that it has are in the name of `cache-1`";
        assert!(refused.text.ends_with(told), "{}", refused.text);
    }
    // What nobody signs may be another, and one right signature among wrong ones is enough.
    let mut many = NarInfo { url: "nar/y.nar".into(), ..other.signed(&plain()) };
    many.sigs.extend([namesake.sign(&plain()), mine.sign(&plain())]);
    assert_eq!(voucher_of(check(&many, &a)), Ok((Voucher::Key, Ground::key(&mine.public(), &dir()))));
}

#[test]
fn the_ground_is_the_key_that_signed() {
    let (one, two) = (key(), Theirs::new("cache-2", 2));
    let ground =
        |signer: &Theirs, keys: &[&Theirs]| check(&signer.signed(&plain()), &upstream("keys", keys)).unwrap().ground();
    assert_eq!(ground(&two, &[&one, &two]), Ground::key(&two.public(), &dir()));
    assert_eq!(ground(&two, &[&one, &two]), ground(&two, &[&two]), "whatever other keys there are");
    assert_ne!(ground(&one, &[&one, &two]), ground(&two, &[&one, &two]));
}

#[test]
fn r5_what_is_believed_is_on_ground_that_its_policy_holds_and_no_longer_once_that_is_gone() {
    let (one, two) = (key(), Theirs::new("cache-2", 2));
    let policy = |trust: &str, keys: &[&Theirs], url: &str, store: &str| {
        let options = crate::proxy::Options { store_dir: StoreDir::parse(store).unwrap(), ..options() };
        Policy::new(options, vec![upstream_at(url, "a", trust, keys)], Signer::new(sign_options(), Vec::new()))
    };
    let here = "http://127.0.0.1:1/cache";
    let infos = [one.signed(&plain()), two.signed(&plain()), addressed(&file_nar(b"x")), plain()];
    for trust in TRUSTS {
        let upstream = upstream(trust, &[&one, &two]);
        let now = policy(trust, &[&one, &two], here, "/nix/store");
        for info in &infos {
            let Ok(verified) = check(info, &upstream) else { continue };
            let (ground, voucher) = (verified.ground().0, verified.voucher());
            assert!(now.holds(&ground), "{trust} {voucher:?}");
            let by_word = matches!(voucher, Voucher::Operator | Voucher::Nobody);
            assert_eq!(policy(trust, &[&one, &two], "http://127.0.0.1:2/cache", "/nix/store").holds(&ground), !by_word);
            assert!(!policy(trust, &[&one, &two], here, "/srv/store").holds(&ground), "{trust} {voucher:?}");
            let without = policy(trust, &[&two], here, "/nix/store");
            let was_one = ground == Ground::key(&one.public(), &dir()).0;
            assert_eq!(without.holds(&ground), !was_one, "{trust} {voucher:?}");
            for other in TRUSTS.into_iter().filter(|other| *other != trust) {
                let holds = match voucher {
                    Voucher::Key => true,
                    Voucher::ContentAddress => other != "pass",
                    Voucher::Operator | Voucher::Nobody => false,
                };
                assert_eq!(policy(other, &[&one, &two], here, "/nix/store").holds(&ground), holds, "{trust} {other}");
            }
        }
    }
}

fn options() -> crate::proxy::Options {
    use crate::options::Table as _;
    crate::proxy::Options::from_toml("").unwrap()
}

fn sign_options() -> sign::Options {
    use crate::options::Table as _;
    sign::Options::from_toml("").unwrap()
}

#[test]
fn a_content_address_vouches_only_for_a_path_made_from_it_and_where_it_can_be_checked() {
    let (trusted, info) = (upstream("keys", &[&key()]), addressed(&file_nar(b"x")));
    assert_eq!(reason(check(&info, &trusted)), None);
    let digest = |text: &str| crate::nix::narinfo::ContentAddress::parse(text);
    let me = info.store_path.clone();
    for changed in [
        NarInfo { ca: None, ..info.clone() },
        NarInfo { ca: digest(&format!("fixed:r:{}", Sha256::of(b"y"))), ..info.clone() },
        NarInfo { ca: digest(&format!("fixed:{}", info.nar_hash)), ..info.clone() },
        NarInfo { references: vec![me], ..info.clone() },
        NarInfo { store_path: path(info.store_path.hash(), "y"), ..info.clone() },
    ] {
        assert_eq!(reason(check(&changed, &trusted)), Some(Refusal::Untrusted), "{changed:?}");
    }
    // The path is made from its MD5, which nothing here holds against the content.
    let md5 = digest(&format!("fixed:md5:{}", "a".repeat(32))).unwrap();
    let made = md5.store_path("x", &[], info.store_path.hash(), &dir()).unwrap();
    let unchecked = NarInfo { store_path: path(made, "x"), ca: Some(md5), ..info };
    assert_eq!(reason(check(&unchecked, &trusted)), Some(Refusal::Untrusted));
    let origin = upstream("origin", &[]);
    assert_eq!(check(&unchecked, &origin).unwrap().voucher(), Voucher::Operator);
}

#[test]
fn content_addresses_that_nix_made_vouch_without_a_signature() {
    let fixtures = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/narinfo");
    for name in ["ca-flat", "ca-recursive", "ca-text"] {
        let text = std::fs::read(fixtures.join(format!("nix-2.8-{name}.narinfo"))).unwrap();
        let info = NarInfo { sigs: Vec::new(), ..NarInfo::parse(&text, &dir()).unwrap() };
        assert_eq!(check(&info, &upstream("keys", &[&key()])).unwrap().voucher(), Voucher::ContentAddress, "{name}");
    }
}

/// Everything that is refused for another reason than trust is refused whoever vouches.
#[test]
fn what_is_malformed_or_elsewhere_is_refused_whoever_vouches() {
    let key = key();
    let xz = |size| compressed(&plain(), Compression::Xz, Some((Sha256::of(b"body"), size)));
    let largest = NarInfo::largest_file(plain().nar_size);
    let url = |url: &str| NarInfo { url: url.to_owned(), ..plain() };
    let cases = [
        (xz(largest), None),
        (xz(largest + 1), Some(Refusal::Malformed)),
        (xz(u64::MAX), Some(Refusal::Malformed)),
        (url("http://127.0.0.1:1/other/x.nar"), None),
        (url("/other/x.nar"), None),
        (url("http://127.0.0.1:2/cache/x.nar"), Some(Refusal::BadUrl)),
        (url("//127.0.0.1:1/cache/x.nar"), Some(Refusal::BadUrl)),
        (url("../x.nar"), Some(Refusal::BadUrl)),
        (url("nar/%2e%2e/x"), Some(Refusal::BadUrl)),
    ];
    for trust in TRUSTS {
        let upstream = upstream(trust, &[&key]);
        for (info, expected) in &cases {
            assert_eq!(reason(check(&key.signed(info), &upstream)), *expected, "{trust}: {info:?}");
        }
        let rules = Rules { dir: &dir(), verify: Verify::Background };
        let text = key.signed(&plain()).render(&dir());
        let of = |text: &str, asked: &str| reason(Verified::check(text.as_bytes(), hash(asked), &upstream, rules));
        assert_eq!(of(&text, HASH), None);
        // R6
        assert_eq!(of(&text, "0000000000000000000000000000000a"), Some(Refusal::OtherPath));
        for bad in ["", "<html>", &text[..text.len() - 1], &format!("{text}{text}"), &text.replace("NarSize", "Size")] {
            assert_eq!(of(bad, HASH), Some(Refusal::Malformed), "{bad}");
        }
        // Longer than anything from outside may be; what was kept may.
        let long = format!("{text}{}", "X: y\n".repeat(20)).replace("X: y", &format!("X: {}", "y".repeat(60_000)));
        assert_eq!(of(&long, HASH), Some(Refusal::Malformed));
        let kept = Verified::check_kept(long.as_bytes(), "nar/x.nar", hash(HASH), &upstream, rules);
        assert_eq!(reason(kept), None);
    }
}

#[test]
fn what_cannot_be_proven_is_refused_where_it_must_be() {
    let (origin, file) = (upstream("origin", &[]), Some((Sha256::of(b"body"), 4)));
    let (xz, lrzip) = (Compression::Xz, Compression::Lrzip);
    let refused = Some(Refusal::Unprovable);
    for (compression, file, background, first, off) in [
        (Compression::None, None, None, None, None),
        (xz, file, None, None, None),
        (xz, None, None, None, None),
        (lrzip, file, None, refused, None),
        (lrzip, None, refused, refused, refused),
    ] {
        let info = compressed(&plain(), compression, file);
        let with = |verify| reason(check_with(&info, &origin, verify));
        let found = (with(Verify::Background), with(Verify::BeforeFirstByte), with(Verify::Off));
        assert_eq!(found, (background, first, off), "{compression} {file:?}");
    }
}

/// As it is kept, and checked again.
fn kept(info: &NarInfo, url: &str, upstream: &Upstream, dir: &StoreDir) -> Result<Verified, Refused> {
    let rules = Rules { dir, verify: Verify::Background };
    let served = check(info, &self::upstream("pass", &[])).unwrap().served(&StoreDir::default());
    Verified::check_kept(served.render(&self::dir()).as_bytes(), url, info.store_path.hash(), upstream, rules)
}

#[test]
fn r5_what_is_kept_is_held_against_what_is_trusted_now() {
    let (one, two) = (key(), Theirs::new("cache-2", 2));
    let both = two.signed(&one.signed(&plain()));
    let url = "nar/x.nar";
    let of =
        |info: &NarInfo, trust: &str, keys: &[&Theirs]| voucher_of(kept(info, url, &upstream(trust, keys), &dir()));
    let by = |key: &Theirs| Ok((Voucher::Key, Ground::key(&key.public(), &dir())));
    assert_eq!(of(&both, "keys", &[&one, &two]), by(&one));
    assert_eq!(of(&both, "keys", &[&two]), by(&two), "the other signature is enough");
    assert_eq!(of(&one.signed(&plain()), "keys", &[&two]), Err(Refusal::Untrusted));
    assert_eq!(of(&one.signed(&plain()), "origin", &[&two]).unwrap().0, Voucher::Operator);
    assert_eq!(of(&both, "pass", &[&one]).unwrap().0, Voucher::Nobody);
    assert_eq!(of(&plain(), "keys", &[&one]), Err(Refusal::Untrusted), "the operator's word is withdrawn");
    assert_eq!(of(&addressed(&file_nar(b"x")), "keys", &[&two]).unwrap().0, Voucher::ContentAddress);

    let elsewhere = StoreDir::parse("/srv/store").unwrap();
    assert_eq!(reason(kept(&both, url, &upstream("keys", &[&one]), &elsewhere)), Some(Refusal::Malformed));
    let moved = upstream_at("http://127.0.0.1:2/cache", "a", "keys", &[&one]);
    assert_eq!(reason(kept(&both, url, &moved, &dir())), None, "a key vouches wherever it is");
    assert_eq!(reason(kept(&both, "http://127.0.0.1:1/x", &moved, &dir())), Some(Refusal::BadUrl));
}

#[test]
fn what_is_kept_is_about_the_url_that_was_announced() {
    let (key, url) = (key(), "http://127.0.0.1:1/cache/y.nar?a=b");
    let verified = kept(&key.signed(&plain()), url, &upstream("keys", &[&key]), &dir()).unwrap();
    assert_eq!((verified.url().as_str(), verified.info().url.as_str()), ("y.nar?a=b", url));
    let rules = Rules { dir: &dir(), verify: Verify::Background };
    let upstream = upstream("keys", &[&key]);
    let other = hash("0000000000000000000000000000000a");
    let text = key.signed(&plain()).render(&dir());
    assert_eq!(
        reason(Verified::check_kept(text.as_bytes(), "y", other, &upstream, rules)),
        Some(Refusal::OtherPath),
        "R6"
    );
}

#[test]
fn what_is_served_names_the_bytes_by_path_and_digest() {
    let (origin, body) = (upstream("origin", &[]), Sha256::of(b"body"));
    let (nar_hash, info) = (plain().nar_hash, plain());
    for (info, digest, file, extension) in [
        (info.clone(), nar_hash, Some(nar_hash), ""),
        (compressed(&info, Compression::Xz, Some((body, 4))), body, Some(body), ".xz"),
        (compressed(&info, Compression::Zstd, None), nar_hash, None, ".zst"),
    ] {
        let verified = check(&info, &origin).unwrap();
        let url = format!("nar/{HASH}-{}.nar{extension}", digest.nix32());
        assert_eq!(verified.served(&StoreDir::default()), NarInfo { url, ..verified.info().clone() });
        assert_eq!((super::digest(&info), file_hash(&info)), (digest, file));
        assert_eq!(verified.url().as_str(), "nar/x.nar");
    }
}

#[test]
fn a_claim_says_what_the_narinfo_says_and_why_it_is_believed() {
    let key = key();
    let mut info = addressed(&file_nar(b"x"));
    info.references = vec![info.store_path.clone()];
    let verified = check(&key.signed(&info), &upstream("keys", &[&key])).unwrap();
    let claim = verified.claim();
    assert_eq!((claim.hash, claim.name), (info.store_path.hash(), info.store_path.base_name()));
    assert_eq!((claim.nar_hash, claim.nar_size), (info.nar_hash, info.nar_size));
    // Nobody signed the address.
    assert_eq!((claim.address, claim.basis), (None, verified.ground().0));
    let by_content = |info: &NarInfo| super::claim(info, Voucher::ContentAddress, verified.ground()).address;
    assert_eq!(by_content(&info), info.ca.clone().map(|ca| (ca, true)));
    info.references = vec![path(hash(HASH), "other")];
    assert_eq!(by_content(&info), info.ca.map(|ca| (ca, false)));
}

/// A manifest of the uncompressed NAR of `info`, seen to be this inside, announced for the path `announced`.
fn manifest(info: &NarInfo, inside: Option<Inside>, announced: Option<HashPart>) -> Manifest {
    let (nar_hash, nar_size) = (*info.nar_hash.as_bytes(), info.nar_size);
    Manifest {
        blob: BlobId([0; 16]),
        size: nar_size,
        file_hash: nar_hash,
        compression: code_of(Compression::None),
        inside,
        announced: announced.map(|hash| Announced { store_hash: *hash.as_bytes(), nar_hash, nar_size, basis: [0; 16] }),
        digests: Vec::new(),
    }
}

#[test]
fn r3_proven_is_what_was_seen_to_be_the_nar_and_to_have_the_address_of_this_path() {
    let (key, content) = (key(), addressed(&file_nar(b"x")));
    let (this, another) = (Some(content.store_path.hash()), Some(hash(HASH)));
    let is = |addressed| Inside { nar_hash: *content.nar_hash.as_bytes(), nar_size: content.nar_size, addressed };
    let no_hash = Inside { nar_hash: [1; 32], ..is(true) };
    let no_size = Inside { nar_size: 1, ..is(true) };
    let proven = |info: &NarInfo, trust: &str, inside: Option<Inside>, announced: Option<HashPart>| {
        let verified = check(info, &upstream(trust, &[&key])).unwrap();
        assert!(!verified.is_proven(), "not before it was seen");
        verified.seen_in(&manifest(info, inside, announced)).is_proven()
    };
    let (info, trust, name) = (&content, "keys", "content alone");
    assert!(proven(info, trust, Some(is(true)), this), "{name}");
    assert!(!proven(info, trust, Some(is(true)), another), "{name}: the address of another path");
    assert!(!proven(info, trust, Some(is(true)), None), "{name}");
    assert!(!proven(info, trust, Some(is(false)), this), "{name}: its address was not looked at");
    assert!(!proven(info, trust, None, this), "{name}");
    assert!(!proven(info, trust, Some(no_hash), this) && !proven(info, trust, Some(no_size), this), "{name}");
    // Two contents can have one SHA-1: believed, and never proven by it.
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY, &file_nar(b"x"));
    let weak = addressed_by(unsigned(&file_nar(b"x")), &format!("sha1:{}", base32::encode(digest.as_ref())));
    assert!(!proven(&weak, "keys", Some(is(true)), Some(weak.store_path.hash())), "{name}, by SHA-1");
    for (info, trust) in [(key.signed(&plain()), "keys"), (plain(), "origin")] {
        for announced in [this, another, None] {
            assert!(proven(&info, trust, Some(is(false)), announced), "there is no address to be held against");
            assert!(!proven(&info, trust, None, announced));
        }
        assert!(!proven(&info, trust, Some(no_hash), another) && !proven(&info, trust, Some(no_size), another));
    }
}

#[test]
fn vouchers_are_kept_by_number() {
    for (code, voucher) in (0..).zip(Voucher::ALL) {
        assert_eq!((voucher as u8, Voucher::of_code(code)), (code, Some(voucher)));
    }
    assert_eq!(Voucher::ALL, [Voucher::Key, Voucher::ContentAddress, Voucher::Operator, Voucher::Nobody]);
    assert_eq!((Voucher::of_code(4), Voucher::of_code(255)), (None, None));
}

#[test]
fn an_operator_is_told_which_keys_signed_in_few_words() {
    let upstream = upstream("keys", &[&Theirs::new("cache-1", 1)]);
    let told = |names: &[String]| {
        let sigs = names.iter().map(|name| Signature { name: name.clone(), bytes: [7; 64] }).collect();
        let refused = check(&NarInfo { sigs, ..unsigned(&file_nar(b"x")) }, &upstream).unwrap_err();
        refused.text.split_once("; ").unwrap().1.to_owned()
    };
    assert_eq!(told(&[]), "it has none at all");
    let names = |count| (0..count).map(|n| format!("k-{n}")).collect::<Vec<_>>();
    assert_eq!(told(&names(1)), "those that it has are in the name of `k-0`");
    assert_eq!(told(&[names(2), names(2)].concat()), "those that it has are in the name of `k-0`, `k-1`");
    assert_eq!(told(&names(9)), "those that it has are in the name of `k-0`, `k-1`, `k-2`, `k-3` and 5 more");
    let long: Vec<String> = (0..9).map(|n| n.to_string().repeat(255)).collect();
    assert!(told(&long).len() < 400, "{}", told(&long));
}
