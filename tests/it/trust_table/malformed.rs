//! The rows that break a rule of the format, whatever the trust: lines, store paths, digests, numbers, signatures, and the
//! text as a whole.

use super::hostile::{Case, row};
use crate::support::cache::{nix32, sha256};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};

const MALFORMED: &[&str] = &["malformed"];
const FIELDS: [&str; 10] =
    ["StorePath", "URL", "Compression", "FileHash", "FileSize", "NarHash", "NarSize", "References", "Deriver", "Sig"];

/// What breaks a rule of the format.
pub fn malformed() -> Vec<Case> {
    let mut cases = lines();
    cases.extend(missing_and_empty());
    cases.extend(store_paths());
    cases.extend(digests());
    cases.extend(numbers());
    cases.extend(values());
    cases.extend(whole_texts());
    cases
}

/// Each field with every fault that a line can have.
fn lines() -> Vec<Case> {
    type Change = fn(&str, &str) -> Vec<u8>;
    let faults: [(&str, Change); 9] = [
        ("twice", |field, value| format!("{field}: {value}\n{field}: {value}\n").into()),
        ("with-two-blanks", |field, value| format!("{field}:  {value}\n").into()),
        ("without-its-blank", |field, value| format!("{field}:{value}\n").into()),
        ("with-a-tab-for-its-blank", |field, value| format!("{field}:\t{value}\n").into()),
        ("ending-in-cr", |field, value| format!("{field}: {value}\r\n").into()),
        ("holding-nul", |field, value| format!("{field}: {value}\0\n").into()),
        ("holding-a-tab", |field, value| format!("{field}: {}\t{}\n", &value[..1], &value[1..]).into()),
        ("that-is-no-utf-8", |field, value| [field.as_bytes(), b": ", value.as_bytes(), b"\xff\n"].concat()),
        ("with-a-blank-before-the-colon", |field, value| format!("{field} : {value}\n").into()),
    ];
    let mut cases = Vec::new();
    for field in FIELDS {
        for (fault, change) in faults {
            // The same signature once more says nothing new; and a text without the word `StorePath:` is no narinfo.
            let other = matches!((field, fault), ("Sig", "twice") | ("StorePath", "with-a-blank-before-the-colon"));
            if !other {
                cases.push(row(format!("{field}-{fault}"), MALFORMED, move |g| g.line(field, change)));
            }
        }
    }
    for field in &FIELDS[1..] {
        cases.push(row(format!("{field}-without-colon"), MALFORMED, |g| {
            g.line(field, |field, value| format!("{field} {value}\n").into())
        }));
        cases.push(row(format!("{field}-indented"), MALFORMED, |g| {
            g.line(field, |field, value| format!(" {field}: {value}\n").into())
        }));
    }
    cases
}

fn missing_and_empty() -> Vec<Case> {
    let mut cases = Vec::new();
    for field in ["URL", "NarHash", "NarSize"] {
        cases.push(row(format!("{field}-missing"), MALFORMED, move |g| g.without(field)));
        cases.push(row(format!("{field}-in-small-letters"), MALFORMED, move |g| {
            g.text.replace(&format!("{field}:"), &format!("{}:", field.to_lowercase()))
        }));
    }
    for field in ["StorePath", "URL", "FileHash", "FileSize", "NarHash", "NarSize", "Deriver", "Sig"] {
        cases.push(row(format!("{field}-empty"), MALFORMED, move |g| g.with(field, "")));
        cases.push(row(format!("{field}-a-blank"), MALFORMED, move |g| g.with(field, " ")));
        cases.push(row(format!("{field}-with-a-trailing-blank"), MALFORMED, move |g| {
            g.line(field, |field, value| format!("{field}: {value} \n").into())
        }));
    }
    // Nix looks for the end of `References:` one character too late, and takes the next line for its value.
    cases.push(row("references-swallow-the-next-line", MALFORMED, |g| {
        g.line("References", |_, value| format!("References:\n{value}\n").into())
    }));
    cases.push(row("references-swallow-a-field", MALFORMED, |g| {
        g.line("References", |_, value| format!("References:\nReferences: {value}\n").into())
    }));
    cases
}

/// What no store path is, for StorePath itself and for References and Deriver.
fn store_paths() -> Vec<Case> {
    let mut cases = Vec::new();
    let names: [(&str, String); 15] = [
        ("semicolon", "a;b".into()),
        ("comma", "a,b".into()),
        ("slash", "a/b".into()),
        ("colon", "a:b".into()),
        ("percent", "a%2fb".into()),
        ("backslash", "a\\b".into()),
        ("quote", "a\"b".into()),
        ("tilde", "a~b".into()),
        ("umlaut", "\u{e4}".into()),
        ("no-break-space", "a\u{a0}b".into()),
        ("212-letters", "n".repeat(212)),
        ("nothing", String::new()),
        ("dot", ".".into()),
        ("dots", "..".into()),
        ("dots-dash", "..-x".into()),
    ];
    for (what, name) in names {
        let path = name.clone();
        cases.push(row(format!("name-of-{what}"), MALFORMED, move |g| g.with("StorePath", &g.base_name(&path))));
        let reference = format!("{}-{name}", "0".repeat(32));
        let deriver = reference.clone();
        cases.push(row(format!("reference-of-{what}"), MALFORMED, move |g| {
            g.with("References", &format!("{} {reference}", g.object.references[0]))
        }));
        cases.push(row(format!("deriver-of-{what}"), MALFORMED, move |g| g.with("Deriver", &deriver)));
    }
    for letter in ["e", "o", "u", "t", "A", "-", "."] {
        let hash = format!("{}{letter}", "0".repeat(31));
        let bad = hash.clone();
        let slug = letter.replace('-', "dash").replace('.', "dot");
        cases.push(row(format!("hash-part-with-{slug}"), MALFORMED, move |g| {
            let rest = &g.object.base_name[32..];
            g.with("StorePath", &format!("/nix/store/{bad}{rest}"))
        }));
        cases.push(row(format!("reference-hash-with-{slug}"), MALFORMED, move |g| {
            g.with("References", &format!("{hash}-x"))
        }));
    }
    let dirs = ["/gnu/store/", "/nix/store", "/nix/store//", "/nix/store/../store/", "/nix/./store/", "nix/store/", ""];
    for (n, dir) in dirs.into_iter().enumerate() {
        cases.push(row(format!("store-dir-{n}"), MALFORMED, move |g| {
            g.with("StorePath", &format!("{dir}{}", g.object.base_name))
        }));
    }
    for (what, tail) in [("below", "/bin"), ("slash", "/"), ("drv-output", "!out")] {
        cases.push(row(format!("store-path-and-{what}"), MALFORMED, move |g| {
            g.with("StorePath", &format!("/nix/store/{}{tail}", g.object.base_name))
        }));
    }
    cases.push(row("hash-part-alone", MALFORMED, |g| {
        g.with("StorePath", &format!("/nix/store/{}", g.object.hash_part()))
    }));
    cases.push(row("hash-part-and-underscore", MALFORMED, |g| {
        g.with("StorePath", &format!("/nix/store/{}_x", g.object.hash_part()))
    }));
    cases
        .push(row("references-joined-by-a-comma", MALFORMED, |g| g.with("References", &g.object.references.join(","))));
    cases.push(row("references-with-their-directory", MALFORMED, |g| {
        g.with("References", &format!("/nix/store/{}", g.object.references[0]))
    }));
    cases.push(row("reference-of-a-hash-alone", MALFORMED, |g| g.with("References", &"0".repeat(32))));
    cases.push(row("deriver-with-its-directory", MALFORMED, |g| {
        g.with("Deriver", &format!("/nix/store/{}.drv", g.object.base_name))
    }));
    cases
}

/// What no SHA-256 is, for both hashes.
fn digests() -> Vec<Case> {
    let zeros = |n: usize| "0".repeat(n);
    let nix32 = nix32(&sha256(b""));
    let values: Vec<(&str, String)> = vec![
        ("md5", format!("md5:{}", zeros(32))),
        ("sha1", format!("sha1:{}", zeros(40))),
        ("sha512", format!("sha512:{}", zeros(128))),
        ("sha512-with-a-sha256", format!("sha512:{nix32}")),
        ("blake3", format!("blake3:{nix32}")),
        ("no-algorithm", nix32.clone()),
        ("algorithm-in-capitals", format!("SHA256:{nix32}")),
        ("algorithm-twice", format!("sha256:sha256:{nix32}")),
        ("blank-behind-the-algorithm", format!("sha256: {nix32}")),
        ("short", format!("sha256:{}", &nix32[1..])),
        ("long", format!("sha256:{nix32}0")),
        ("foreign-letter", format!("sha256:{}e", &nix32[1..])),
        ("capitals", format!("sha256:{}", nix32.to_uppercase())),
        ("bits-beyond-the-end", format!("sha256:z{}", &nix32[1..])),
        ("hex-short", format!("sha256:{}", zeros(63))),
        ("hex-long", format!("sha256:{}", zeros(65))),
        ("hex-foreign-letter", format!("sha256:{}g", zeros(63))),
        ("base64-without-padding", format!("sha256:{}", STANDARD.encode([0; 32]).trim_end_matches('='))),
        ("base64-with-bits-beyond-the-end", format!("sha256:{}B=", "A".repeat(42))),
        ("base64-for-urls", format!("sha256-{}", URL_SAFE.encode([0xff; 32]))),
        ("sri-of-base32", format!("sha256-{nix32}")),
        ("sri-of-sha512", format!("sha512-{}", STANDARD.encode([0; 64]))),
        ("path", "sha256:../../../etc/passwd".to_owned()),
        ("signature-separator", format!("sha256:{nix32};1")),
    ];
    let mut cases = Vec::new();
    for field in ["NarHash", "FileHash"] {
        for (what, value) in &values {
            let value = value.clone();
            cases.push(row(format!("{field}-{what}"), MALFORMED, move |g| g.with(field, &value)));
        }
    }
    cases
}

/// What no size is, for both sizes.
fn numbers() -> Vec<Case> {
    let values = [
        ("minus", "-1"),
        ("plus", "+424"),
        ("hex", "0x1a8"),
        ("octal", "0424"),
        ("float", "424.0"),
        ("exponent", "4e2"),
        ("underscore", "4_24"),
        ("comma", "1,424"),
        ("unit", "424 B"),
        ("letters", "many"),
        ("two-to-the-63", "9223372036854775808"),
        ("two-to-the-64", "18446744073709551616"),
        ("two-to-the-64-and-424", "18446744073709552040"),
        ("endless", "99999999999999999999999999999999999999999999999999999999999999999999999999999999"),
        ("arabic", "\u{664}\u{662}\u{664}"),
        ("full-width", "\u{ff14}\u{ff12}\u{ff14}"),
        ("separator", "424;"),
    ];
    let mut cases = Vec::new();
    for field in ["NarSize", "FileSize"] {
        for (what, value) in values {
            cases.push(row(format!("{field}-{what}"), MALFORMED, move |g| g.with(field, value)));
        }
    }
    cases.push(row("NarSize-zero", MALFORMED, |g| g.with("NarSize", "0")));
    cases.push(row("FileSize-absurd", MALFORMED, |g| {
        g.with("FileSize", &(g.object.nar.len() * 2 + (1 << 20) + 1).to_string())
    }));
    cases.push(row("FileSize-of-a-year", MALFORMED, |g| g.with("FileSize", "9223372036854775807")));
    cases
}

fn values() -> Vec<Case> {
    let mut cases = Vec::new();
    for (what, value) in [
        ("unknown", "zip"),
        ("in-capitals", "XZ"),
        ("two", "gzip, xz"),
        ("identity", "identity"),
        ("extension", "zst"),
        ("path", "../xz"),
        ("trailing-blank", "zstd "),
    ] {
        cases.push(row(format!("compression-{what}"), MALFORMED, move |g| g.with("Compression", value)));
    }
    cases.push(row("uncompressed-yet-another-file", MALFORMED, |g| g.with("Compression", "none")));
    cases.push(row("url-with-a-blank", MALFORMED, |g| g.with("URL", "nar/x .nar")));
    cases.push(row("url-with-a-second-request", MALFORMED, |g| {
        g.with("URL", "nar/x HTTP/1.1\rHost: elsewhere\r\rGET /")
    }));
    cases.push(row("url-of-1025-letters", MALFORMED, |g| g.with("URL", &format!("nar/{}", "x".repeat(1021)))));
    cases.push(row("url-with-an-umlaut", MALFORMED, |g| g.with("URL", "nar/\u{fc}.nar")));
    cases.push(row("url-with-a-direction-mark", MALFORMED, |g| g.with("URL", "nar/\u{202e}x.nar")));
    let digest = nix32(&sha256(b""));
    for (what, value) in [
        ("word", "fixed".to_owned()),
        ("method-alone", "fixed:".to_owned()),
        ("hash-alone", format!("sha256:{digest}")),
        ("unknown-method", format!("fixed:x:sha256:{digest}")),
        ("text-with-r", format!("text:r:sha256:{digest}")),
        ("two-methods", format!("fixed:r:git:sha256:{digest}")),
        ("unknown-algorithm", format!("fixed:sha3:{digest}")),
        ("short-digest", format!("fixed:r:sha256:{}", &digest[1..])),
        ("foreign-letter", format!("fixed:r:sha256:{}e", &digest[1..])),
        ("trailing-blank", format!("fixed:r:sha256:{digest} ")),
    ] {
        let line = format!("CA: {value}");
        cases.push(row(format!("ca-{what}"), MALFORMED, move |g| g.and(&line)));
    }
    let ca = format!("CA: fixed:r:sha256:{digest}");
    cases.push(row("ca-twice", MALFORMED, move |g| g.and(&format!("{ca}\n{ca}"))));
    cases.extend(signatures());
    cases
}

/// What no signature is; the narinfo has a good one beside it.
fn signatures() -> Vec<Case> {
    let encoded = |bytes: usize| STANDARD.encode(vec![7; bytes]);
    let values = [
        ("truncated", format!("upstream-1:{}", &encoded(64)[..80])),
        ("cut-anywhere", format!("upstream-1:{}", &encoded(64)[..81])),
        ("without-padding", format!("upstream-1:{}", encoded(64).trim_end_matches('='))),
        ("of-63-bytes", format!("upstream-1:{}", encoded(63))),
        ("of-65-bytes", format!("upstream-1:{}", encoded(65))),
        ("of-nothing", "upstream-1:".to_owned()),
        ("for-urls", format!("upstream-1:{}", URL_SAFE.encode([0xff; 64]))),
        ("hex", format!("upstream-1:{}", "07".repeat(64))),
        ("without-name", format!(":{}", encoded(64))),
        ("without-colon", encoded(64)),
        ("with-a-blank-in-its-name", format!("up stream-1:{}", encoded(64))),
        ("with-a-blank-behind-the-colon", format!("upstream-1: {}", encoded(64))),
        ("with-a-long-name", format!("{}:{}", "n".repeat(256), encoded(64))),
        ("with-an-umlaut", format!("\u{fc}:{}", encoded(64))),
    ];
    let mut cases = Vec::new();
    for (what, value) in values {
        cases.push(row(format!("signature-{what}"), MALFORMED, move |g| g.and(&format!("Sig: {value}"))));
    }
    cases.push(row("signatures-too-many", MALFORMED, |g| {
        let more = (0..64).map(|n| format!("Sig: other-{n}:{}\n", STANDARD.encode([7; 64])));
        format!("{}{}", g.text, more.collect::<String>())
    }));
    cases
}

fn whole_texts() -> Vec<Case> {
    vec![
        row("no-newline-at-the-end", MALFORMED, |g| g.text.trim_end().to_owned()),
        row("cut-in-a-line", MALFORMED, |g| g.text[..g.text.len() - 20].to_owned()),
        row("crlf", MALFORMED, |g| g.text.replace('\n', "\r\n")),
        row("cr-only", MALFORMED, |g| g.text.replace('\n', "\r")),
        row("an-empty-line-first", MALFORMED, |g| format!("\n{}", g.text)),
        row("an-empty-line-last", MALFORMED, |g| g.and("")),
        row("an-empty-line-between", MALFORMED, |g| g.text.replacen('\n', "\n\n", 1)),
        row("nul-at-the-end", MALFORMED, |g| format!("{}\0", g.text)),
        row("twice", MALFORMED, |g| g.text.repeat(2)),
        row("two-paths", MALFORMED, |g| format!("{}{}", g.text, g.text.replace(g.object.hash_part(), &"0".repeat(32)))),
        row("bom-before-another-field", MALFORMED, |g| format!("\u{feff}System: x\n{}", g.text)),
        row("an-overlong-slash", MALFORMED, |g| g.line("URL", |_, _| b"URL: nar\xc0\xafx.nar\n".to_vec())),
        row("a-surrogate", MALFORMED, |g| g.line("System", |_, _| b"System: \xed\xa0\x80\n".to_vec())),
        row("a-field-name-of-65-letters", MALFORMED, |g| g.and(&format!("{}: x", "n".repeat(65)))),
        row("a-field-name-with-a-blank", MALFORMED, |g| g.and("My Field: x")),
        row("a-field-name-with-an-umlaut", MALFORMED, |g| g.and("F\u{fc}ld: x")),
        row("a-field-without-name", MALFORMED, |g| g.and(": x")),
        row("a-next-line-character", MALFORMED, |g| g.and("System: a\u{85}b")),
        row("a-delete-character", MALFORMED, |g| g.and("Other: a\u{7f}b")),
        row("an-escape-sequence", MALFORMED, |g| g.and("Other: \u{1b}[31m")),
        row("65-unknown-fields", MALFORMED, |g| {
            let more = (0..64).map(|n| format!("Other: {n}\n"));
            format!("{}{}", g.text, more.collect::<String>())
        }),
        row("a-comment", MALFORMED, |g| g.and("# made by hand")),
        row("1-mib-and-1", MALFORMED, |g| {
            let left = (1 << 20) + 1 - g.text.len() - "X: \n".len();
            format!("{}X: {}\n", g.text, "x".repeat(left))
        }),
    ]
}
