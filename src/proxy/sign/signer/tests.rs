use super::*;
use crate::fill::code_of;
use crate::nix::narinfo::{Compression, NarInfo};
use crate::options::Table as _;
use crate::proxy::options::Verify;
use crate::proxy::testing::{Theirs, addressed, dir, file_nar, ours, unsigned, upstream};
use crate::proxy::trust::Rules;
use crate::store::{Announced, BlobId, Inside, Manifest};

fn signer(prove_first: ProveFirst, keys: Vec<SecretKey>) -> Signer {
    Signer::new(Options { prove_first, ..Options::from_toml("").unwrap() }, keys)
}

const PROVE_FIRST: [ProveFirst; 3] = [ProveFirst::Unsigned, ProveFirst::All, ProveFirst::Never];
const VOUCHERS: [Voucher; 4] = [Voucher::Key, Voucher::ContentAddress, Voucher::Operator, Voucher::Nobody];

/// A narinfo that this voucher stands behind.
fn verified(voucher: Voucher, proven: bool) -> Verified {
    let (key, nar) = (Theirs::new("cache-1", 1), file_nar(b"x"));
    let (info, trust) = match voucher {
        Voucher::Key => (key.signed(&unsigned(&nar)), "keys"),
        Voucher::ContentAddress => (addressed(&nar), "keys"),
        Voucher::Operator => (unsigned(&nar), "origin"),
        Voucher::Nobody => (key.signed(&unsigned(&nar)), "pass"),
    };
    let rules = Rules { dir: &dir(), verify: Verify::Background };
    let (text, hash) = (info.render(&dir()), info.store_path.hash());
    let verified = Verified::check(text.as_bytes(), hash, &upstream(trust, &[&key]), rules).unwrap();
    assert_eq!(verified.voucher(), voucher);
    if proven { verified.seen_in(&proof(&info)) } else { verified }
}

fn proof(info: &NarInfo) -> Manifest {
    let (nar_hash, nar_size) = (*info.nar_hash.as_bytes(), info.nar_size);
    Manifest {
        blob: BlobId([0; 16]),
        size: nar_size,
        file_hash: nar_hash,
        compression: code_of(Compression::None),
        inside: Some(Inside { nar_hash, nar_size, addressed: true }),
        announced: Some(Announced {
            store_hash: *info.store_path.hash().as_bytes(),
            nar_hash,
            nar_size,
            basis: [0; 16],
        }),
        digests: Vec::new(),
    }
}

#[test]
fn r1_r3_what_is_signed_and_when() {
    use Voucher::{ContentAddress, Key, Nobody, Operator};
    for prove_first in PROVE_FIRST {
        let signer = signer(prove_first, vec![ours("ours-1")]);
        for voucher in VOUCHERS {
            let (demand, unproven, proven) = match (voucher, prove_first) {
                (Nobody, _) => (Demand::Nothing, false, false),
                (ContentAddress, _) => (Demand::ProofIfThere, false, true),
                (Operator, ProveFirst::Unsigned | ProveFirst::All) | (Key, ProveFirst::All) => {
                    (Demand::Proof, false, true)
                }
                (Operator, ProveFirst::Never) | (Key, ProveFirst::Unsigned | ProveFirst::Never) => {
                    (Demand::Nothing, true, true)
                }
            };
            assert_eq!(signer.demand(voucher), demand, "{voucher:?} {prove_first:?}");
            let signs = |proven| !signer.sign(&verified(voucher, proven), &dir()).is_empty();
            assert_eq!((signs(false), signs(true)), (unproven, proven), "{voucher:?} {prove_first:?}");
        }
    }
}

#[test]
fn r2_each_key_signs_once_what_was_parsed() {
    let keys = || vec![ours("ours-1"), ours("ours-2"), ours("ours-3")];
    let signer = signer(ProveFirst::Unsigned, keys());
    let verified = verified(Voucher::Key, false);
    let (sigs, public) = (signer.sign(&verified, &dir()), signer.public_keys());
    let names: Vec<&str> = sigs.iter().map(|sig| sig.name.as_str()).collect();
    assert_eq!(names, ["ours-1", "ours-2", "ours-3"]);
    assert_eq!(public.iter().map(PublicKey::name).collect::<Vec<_>>(), names);
    let fingerprint = verified.info().fingerprint(&dir());
    for (n, key) in public.iter().enumerate() {
        let signed: Vec<bool> = sigs.iter().map(|sig| key.verifies(sig, fingerprint.as_bytes())).collect();
        assert_eq!(signed, (0..3).map(|m| m == n).collect::<Vec<_>>());
    }
    assert!(["ours-1", "ours-2", "ours-3"].into_iter().all(|name| signer.has(name)));
    assert!(["", "ours", "ours-", "ours-11", "OURS-1", "cache-1"].into_iter().all(|name| !signer.has(name)));
}

#[test]
fn without_a_key_nothing_is_signed_and_nothing_waited_for() {
    for prove_first in PROVE_FIRST {
        let signer = signer(prove_first, Vec::new());
        for voucher in VOUCHERS {
            assert_eq!(signer.demand(voucher), Demand::Nothing);
            assert!(signer.sign(&verified(voucher, true), &dir()).is_empty());
        }
        assert!(signer.public_keys().is_empty() && !signer.has("ours-1"));
    }
}

#[test]
fn its_fingerprint_tells_keys_and_the_demand_apart_and_nothing_else() {
    let (one, two) = (ours("ours-1"), ours("ours-2"));
    let again = |key: &SecretKey| SecretKey::parse(&key.to_text()).unwrap();
    let of = |prove_first, keys| *signer(prove_first, keys).fingerprint();
    let base = of(ProveFirst::Unsigned, vec![again(&one)]);
    assert_eq!(base, of(ProveFirst::Unsigned, vec![again(&one)]));
    let drops = Options { upstream_signatures: UpstreamSignatures::Drop, ..Options::from_toml("").unwrap() };
    let drops = Signer::new(drops, vec![again(&one)]);
    assert_eq!(&base, drops.fingerprint(), "what is left out when it is served changes nothing that is kept");
    assert!(drops.drops_theirs() && !signer(ProveFirst::Unsigned, Vec::new()).drops_theirs());
    let others = [
        of(ProveFirst::All, vec![again(&one)]),
        of(ProveFirst::Never, vec![again(&one)]),
        of(ProveFirst::Unsigned, Vec::new()),
        of(ProveFirst::Unsigned, vec![again(&two)]),
        of(ProveFirst::Unsigned, vec![again(&one), again(&two)]),
        of(ProveFirst::Unsigned, vec![ours("ours-1")]),
        base,
    ];
    for (n, other) in others.iter().enumerate() {
        assert!(!others[..n].contains(other), "{n}");
    }
}
