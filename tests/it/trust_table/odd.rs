//! The rows that must be accepted: narinfos that some writer makes, or could, and that mean one thing only.

use crate::support::cache::{Compression, Key, Object};
use crate::support::lies::with_field;
use crate::support::origin::Origin;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// A row.
pub struct Row {
    /// What is odd.
    pub name: &'static str,
    /// What it is about; references sorted, each once, as they must be served.
    pub object: Object,
    /// The narinfo.
    pub text: String,
    /// Where its file is at the upstream.
    pub file_target: String,
}

/// All rows, for the upstream at `origin` that signs with `key`, in front of a program that signs with `own`.
pub fn rows(origin: &Origin, key: &Key, own: &Key) -> Vec<Row> {
    let mut rows = Vec::new();
    rows.extend(files(key));
    rows.extend(hashes(key));
    rows.extend(references(key));
    rows.extend(names(key));
    rows.extend(fields(origin, key));
    rows.extend(signatures(key, own));
    rows
}

fn object(name: &str, compression: Compression) -> Object {
    let mut object = Object::compressed(name, 300, compression);
    object.references = ["alpha-1.0", "beta-2.0"].map(|name| Object::new(name, 0).base_name).to_vec();
    object.references.sort();
    object
}

/// A row about an object in xz, its narinfo changed by `change`.
fn row(name: &'static str, key: &Key, change: impl Fn(&Object, String) -> String) -> Row {
    of(name, object(name, Compression::Xz), key, change)
}

fn of(name: &'static str, object: Object, key: &Key, change: impl Fn(&Object, String) -> String) -> Row {
    let text = change(&object, object.narinfo(&[key]));
    Row { name, text, file_target: object.file_target(), object }
}

fn without(text: &str, field: &str) -> String {
    let prefix = format!("{field}: ");
    text.lines().filter(|line| !line.starts_with(&prefix)).map(|line| format!("{line}\n")).collect()
}

fn files(key: &Key) -> Vec<Row> {
    let plain = |name| object(name, Compression::None);
    let bare = |_: &Object, text: String| without(&without(&text, "FileHash"), "FileSize");
    vec![
        row("no-file-hash", key, |_, text| without(&text, "FileHash")),
        row("no-file-size", key, |_, text| without(&text, "FileSize")),
        row("neither-hash-nor-size-of-the-file", key, bare),
        of("uncompressed", plain("uncompressed"), key, |_, text| text),
        of("uncompressed-without-file-hash", plain("uncompressed-without-file-hash"), key, bare),
        of("zstd-without-file-hash", object("zstd-without-file-hash", Compression::Zstd), key, bare),
        of("bzip2-without-file-hash", object("bzip2-without-file-hash", Compression::Bzip2), key, bare),
        of("no-compression-is-bzip2", object("no-compression-is-bzip2", Compression::Bzip2), key, |_, text| {
            without(&text, "Compression")
        }),
        of(
            "an-empty-compression-is-bzip2",
            object("an-empty-compression-is-bzip2", Compression::Bzip2),
            key,
            |_, t| with_field(&t, "Compression", ""),
        ),
        row("file-size-0", key, |_, text| with_field(&text, "FileSize", "0")),
    ]
}

fn hashes(key: &Key) -> Vec<Row> {
    use crate::support::cache::sha256;
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let spell = move |field: &'static str, spelling: &'static str| {
        move |object: &Object, text: String| {
            let digest = sha256(if field == "NarHash" { &object.nar } else { &object.file });
            let value = match spelling {
                "hex" => format!("sha256:{}", hex(&digest)),
                "capital-hex" => format!("sha256:{}", hex(&digest).to_uppercase()),
                "base64" => format!("sha256:{}", STANDARD.encode(digest)),
                _ => format!("sha256-{}", STANDARD.encode(digest)),
            };
            with_field(&text, field, &value)
        }
    };
    vec![
        row("nar-hash-as-sri", key, spell("NarHash", "sri")),
        row("nar-hash-in-base-16", key, spell("NarHash", "hex")),
        row("nar-hash-in-capital-base-16", key, spell("NarHash", "capital-hex")),
        row("nar-hash-in-base-64", key, spell("NarHash", "base64")),
        row("file-hash-as-sri", key, spell("FileHash", "sri")),
        row("file-hash-in-base-16", key, spell("FileHash", "hex")),
        row("file-hash-in-base-64", key, spell("FileHash", "base64")),
    ]
}

fn references(key: &Key) -> Vec<Row> {
    let with = |value: fn(&[String]) -> String| {
        move |object: &Object, text: String| with_field(&text, "References", &value(&object.references))
    };
    let alone = |name: &str| {
        let mut object = object(name, Compression::Xz);
        object.references.clear();
        object
    };
    let mut itself = object("refers-to-itself", Compression::Xz);
    itself.references.push(itself.base_name.clone());
    itself.references.sort();
    vec![
        row("references-unsorted", key, with(|refs| format!("{} {}", refs[1], refs[0]))),
        row("references-twice", key, with(|refs| format!("{0} {1} {0} {1} {1}", refs[0], refs[1]))),
        row("references-and-a-trailing-blank", key, with(|refs| format!("{} ", refs.join(" ")))),
        row("references-and-two-blanks-between", key, with(|refs| refs.join("  "))),
        of("no-references", alone("no-references"), key, |_, text| text),
        of("no-line-of-references", alone("no-line-of-references"), key, |_, text| without(&text, "References")),
        of("refers-to-itself", itself, key, |_, text| text),
    ]
}

fn names(key: &Key) -> Vec<Row> {
    let longest: &'static str = "n".repeat(211).leak();
    let mut rows: Vec<Row> = [longest, "plus+question?equals=", ".hidden", "...", "-", "_.-+?=", "0"]
        .into_iter()
        .map(|name| row(name, key, |_, text| text))
        .collect();
    let mut object = object("odd-references", Compression::Xz);
    object.references = vec![format!("{}-{longest}", "0".repeat(32)), format!("{}-a+b?c=d", "1".repeat(32))];
    rows.push(of("odd-references", object, key, |_, text| text));
    rows
}

fn fields(origin: &Origin, key: &Key) -> Vec<Row> {
    let base = origin.url();
    let at = |name: &'static str, url: &str, target: &str| {
        let object = object(name, Compression::Xz).at_url(url);
        Row { name, text: object.narinfo(&[key]), object, file_target: target.to_owned() }
    };
    vec![
        row("unknown-deriver", key, |_, text| format!("{text}Deriver: unknown-deriver\n")),
        row("an-empty-ca", key, |_, text| format!("{text}CA: \n")),
        row("a-ca-that-nobody-needs", key, |object, text| format!("{text}CA: fixed:r:sha256:{}\n", object.nar_hash())),
        row("unknown-fields", key, |_, text| {
            format!("{text}System: x86_64-linux\nX-Odd_Field: a: b  c \u{e4}\nX-Odd_Field: again\nEmpty: \n")
        }),
        row("64-unknown-fields", key, |_, text| {
            let more: String = (0..64).map(|n| format!("Other-{n}: {n}\n")).collect();
            format!("{text}{more}")
        }),
        row("fields-in-another-order", key, |_, text| {
            let mut lines: Vec<&str> = text.lines().collect();
            lines.reverse();
            lines.join("\n") + "\n"
        }),
        row("nearly-1-mib", key, |_, text| {
            let left = (1 << 20) - text.len() - "X: \n".len();
            format!("{text}X: {}\n", "x".repeat(left))
        }),
        at("a-url-with-a-query", "deep/er/opaque?token=a+b&x=1,2", "/deep/er/opaque?token=a+b&x=1,2"),
        at("an-absolute-path", "/elsewhere/absolute.nar", "/elsewhere/absolute.nar"),
        at("a-full-url-of-the-same-origin", &format!("{base}/full.nar.xz?key=1"), "/full.nar.xz?key=1"),
        at("a-url-of-1024-letters", &"x".repeat(1024), &format!("/{}", "x".repeat(1024))),
    ]
}

fn signatures(key: &Key, own: &Key) -> Vec<Row> {
    let by = |name: &str, object: &Object| Key::new(name).sign(&object.fingerprint());
    let lines = |values: Vec<String>| values.iter().map(|value| format!("Sig: {value}\n")).collect::<String>();
    let before = |text: String, more: String| text.replacen("Sig: ", &format!("{more}Sig: "), 1);
    let noise = |n: u8| STANDARD.encode([n; 64]);
    vec![
        row("the-16th-signature-is-the-good-one", key, |_, text| {
            before(text, lines((0..15).map(|n| format!("{}:{}", key.name(), noise(n))).collect()))
        }),
        row("63-signatures-of-others-before-the-good-one", key, |object, text| {
            before(text, lines((0..63).map(|n| by(&format!("other-{n}"), object)).collect()))
        }),
        row("one-signature-twice", key, |object, text| format!("{text}Sig: {}\n", key.sign(&object.fingerprint()))),
        row("one-signature-seventy-times", key, |object, text| {
            format!("{text}{}", lines(vec![key.sign(&object.fingerprint()); 69]))
        }),
        row("several-keys", key, |object, text| {
            format!("{text}{}", lines(vec![by("alpha-1", object), by("beta-1", object)]))
        }),
        row("a-key-name-of-255-letters", key, |object, text| {
            let name = "k".repeat(255);
            format!("{text}Sig: {name}:{}\n", by("x", object).trim_start_matches("x:"))
        }),
        row("our-own-signature-forged", key, |_, text| format!("{text}Sig: {}:{}\n", own.name(), noise(7))),
        row("our-own-signature-forged-three-times", key, |_, text| {
            before(text, lines((0..3).map(|n| format!("{}:{}", own.name(), noise(n))).collect()))
        }),
        row("our-own-signature-of-another-path", key, |_, text| {
            format!("{text}Sig: {}\n", own.sign(&Object::new("given", 300).fingerprint()))
        }),
        row("our-own-signature-as-it-is", key, |object, text| {
            format!("{text}Sig: {}\n", own.sign(&object.fingerprint()))
        }),
    ]
}
