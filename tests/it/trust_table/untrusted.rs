//! The rows that are well formed and about the right path, and that nobody signed who may.

use super::hostile::{Case, Good, row};
use crate::support::cache::{Key, Object, nix32, sha256};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Well formed, about the right path, and vouched for by nobody who may.
pub fn untrusted() -> Vec<Case> {
    const REASON: &[&str] = &["untrusted"];
    let mut cases = vec![
        row("unsigned", REASON, |g| g.without("Sig")),
        row("by-another-upstreams-key", REASON, |g| g.signed(&Key::new("other-1").sign(&g.object.fingerprint()))),
        row("by-our-own-key", REASON, |g| g.signed(&Key::new("own-1").sign(&g.object.fingerprint()))),
        row("by-nobody-known", REASON, |g| g.signed(&Key::new("forger-1").sign(&g.object.fingerprint()))),
        row("under-the-right-name-by-another-key", REASON, |g| {
            g.signed(&Key::new("forger-1").sign(&g.object.fingerprint()).replace("forger-1", "upstream-1"))
        }),
        row("by-the-right-key-under-another-name", REASON, |g| {
            g.signed(&g.key.sign(&g.object.fingerprint()).replace("upstream-1", "upstream-2"))
        }),
        row("under-the-name-in-capitals", REASON, |g| {
            g.signed(&g.key.sign(&g.object.fingerprint()).replace("upstream-1", "UPSTREAM-1"))
        }),
        row("under-a-longer-name", REASON, |g| {
            g.signed(&g.key.sign(&g.object.fingerprint()).replace("upstream-1", "upstream-1."))
        }),
        row("zeros", REASON, |g| g.signed(&format!("upstream-1:{}", STANDARD.encode([0; 64])))),
        row("malleated", REASON, |g| g.signed(&format!("upstream-1:{}", STANDARD.encode(plus_order(g.signature()))))),
        row("a-bit-of-the-point", REASON, |g| g.signed(&flipped(g, 31))),
        row("a-bit-of-the-scalar", REASON, |g| g.signed(&flipped(g, 40))),
        row("halves-exchanged", REASON, |g| {
            let signature = g.signature();
            let exchanged = [&signature[32..], &signature[..32]].concat();
            g.signed(&format!("upstream-1:{}", STANDARD.encode(exchanged)))
        }),
        row("of-another-path", REASON, |g| g.signed(&g.key.sign(&Object::new("given", 300).fingerprint()))),
        row("of-the-text", REASON, |g| g.signed(&g.key.sign(&g.without("Sig")))),
        row("of-version-2", REASON, |g| g.signed(&g.key.sign(&g.object.fingerprint().replacen('1', "2", 1)))),
        row("of-a-newline-more", REASON, |g| g.signed(&g.key.sign(&format!("{}\n", g.object.fingerprint())))),
        row("of-base-names", REASON, |g| g.signed(&g.key.sign(&g.object.fingerprint().replace("/nix/store/", "")))),
        row("of-unsorted-references", REASON, |g| {
            let [a, b] = [0, 1].map(|n| format!("/nix/store/{}", g.object.references[n]));
            let unsorted = g.object.fingerprint().replace(&format!("{a},{b}"), &format!("{b},{a}"));
            assert_ne!(unsorted, g.object.fingerprint());
            g.signed(&g.key.sign(&unsorted))
        }),
        row("of-references-with-blanks", REASON, |g| g.signed(&g.key.sign(&g.object.fingerprint().replace(',', " ")))),
        row("16-bad-ones-before-the-good-one", REASON, |g| sixteen_before(g, 16)),
        row("63-bad-ones-before-the-good-one", REASON, |g| sixteen_before(g, 63)),
        row("ca-that-gives-another-path", &["untrusted", "wrong-address"], |g| {
            let ca = format!("CA: fixed:r:sha256:{}", g.object.nar_hash());
            format!("{}{ca}\n", g.without("Sig"))
        }),
        row("ca-of-a-text-that-gives-another-path", &["untrusted", "wrong-address"], |g| {
            let ca = format!("CA: text:sha256:{}", g.object.nar_hash());
            format!("{}{ca}\n", g.without("Sig"))
        }),
    ];
    cases.extend(signed_fields_changed());
    cases
}

/// Each signed field with another value under the old signature.
fn signed_fields_changed() -> Vec<Case> {
    const REASON: &[&str] = &["untrusted"];
    let reference = || Object::new("gamma-3.0", 0).base_name;
    vec![
        row("another-name", REASON, |g| g.with("StorePath", &g.base_name("another-name"))),
        row("a-name-with-a-letter-more", REASON, |g| {
            g.with("StorePath", &format!("/nix/store/{}x", g.object.base_name))
        }),
        row("another-nar-hash", REASON, |g| g.with("NarHash", &format!("sha256:{}", nix32(&sha256(b"another"))))),
        row("nar-size-and-1", REASON, |g| g.with("NarSize", &(g.object.nar.len() + 1).to_string())),
        row("nar-size-less-1", REASON, |g| g.with("NarSize", &(g.object.nar.len() - 1).to_string())),
        row("a-digit-more-in-nar-size", REASON, |g| g.with("NarSize", &format!("{}0", g.object.nar.len()))),
        row("a-reference-more", REASON, move |g| {
            g.with("References", &format!("{} {}", g.object.references.join(" "), reference()))
        }),
        row("itself-as-reference", REASON, |g| {
            g.with("References", &format!("{} {}", g.object.references.join(" "), g.object.base_name))
        }),
        row("a-reference-less", REASON, |g| g.with("References", &g.object.references[1])),
        row("no-references", REASON, |g| g.with("References", "")),
        row("no-line-of-references", REASON, |g| g.without("References")),
        row("references-with-exchanged-names", REASON, |g| {
            let [(a, x), (b, y)] = [0, 1].map(|n| g.object.references[n].split_at(32));
            g.with("References", &format!("{a}{y} {b}{x}"))
        }),
        row("references-with-exchanged-hashes", REASON, |g| {
            let [(a, x), (b, y)] = [0, 1].map(|n| g.object.references[n].split_at(32));
            g.with("References", &format!("{b}{x} {a}{y}"))
        }),
        row("a-reference-in-another-spelling", REASON, |g| {
            g.with("References", &g.object.references.join(" ").replace("alpha", "Alpha"))
        }),
    ]
}

fn flipped(good: &Good, byte: usize) -> String {
    let mut signature = good.signature();
    signature[byte] ^= 4;
    format!("upstream-1:{}", STANDARD.encode(signature))
}

/// The same signature with the group's order added to its scalar: lax readers take both.
fn plus_order(mut signature: Vec<u8>) -> Vec<u8> {
    let mut order = [0; 32];
    order[..16].copy_from_slice(&0x14de_f9de_a2f7_9cd6_5812_631a_5cf5_d3ed_u128.to_le_bytes());
    order[31] = 0x10;
    let mut carry = 0;
    for (byte, more) in signature[32..].iter_mut().zip(order) {
        let sum = u16::from(*byte) + u16::from(more) + carry;
        [*byte, _] = sum.to_le_bytes();
        carry = sum >> 8;
    }
    signature
}

/// So many wrong signatures under the right name, then the right one.
fn sixteen_before(good: &Good, wrong: u8) -> String {
    let bad: String = (0..wrong).map(|n| format!("Sig: upstream-1:{}\n", STANDARD.encode([n; 64]))).collect();
    let right = good.key.sign(&good.object.fingerprint());
    format!("{}{bad}Sig: {right}\n", good.without("Sig"))
}
