use proptest::prelude::*;

use super::laws::in_pieces;
use super::*;

/// The bytes of one string of the format.
fn string(bytes: &[u8]) -> Vec<u8> {
    let mut out = (bytes.len() as u64).to_le_bytes().to_vec();
    out.extend_from_slice(bytes);
    out.resize(out.len().next_multiple_of(8), 0);
    out
}

/// The strings one after the other.
fn strings(all: &[&str]) -> Vec<u8> {
    all.iter().flat_map(|text| string(text.as_bytes())).collect()
}

/// A NAR whose strings after the magic are the words of `text`, `''` standing for the empty one.
fn nar(text: &str) -> Vec<u8> {
    let words = text.split_whitespace().map(|word| if word == "''" { "" } else { word });
    strings(&std::iter::once("nix-archive-1").chain(words).collect::<Vec<_>>())
}

fn read(bytes: &[u8]) -> Result<(), Error> {
    fuzz(bytes);
    in_pieces(bytes, || usize::MAX)
}

const FILE: &str = "( type regular contents hello )";

fn entry(name: &str, file: &str) -> String {
    format!("entry ( name {name} node {file} )")
}

fn directory(entries: &[String]) -> String {
    format!("( type directory {} )", entries.join(" "))
}

/// `depth` directories, one in the other.
fn nested(depth: usize) -> String {
    (1..depth).fold(directory(&[]), |inner, _| directory(&[entry("d", &inner)]))
}

#[test]
fn each_kind_of_file_may_be_the_root() {
    for good in [
        FILE,
        "( type regular contents '' )",
        "( type regular executable '' contents x )",
        "( type symlink target /nix/store/x )",
        "( type directory )",
        &directory(&[entry("a", FILE), entry("a.b", "( type symlink target .. )"), entry("b", &nested(3))]),
        // The order is that of bytes, without case or locale; each directory has its own.
        &directory(&[entry("B", &directory(&[entry("z", FILE)])), entry("a", FILE), entry("é", FILE)]),
    ] {
        assert_eq!(read(&nar(good)), Ok(()), "{good}");
    }
}

#[test]
fn the_grammar_is_exact() {
    for bad in [
        "",
        "(",
        ")",
        "( type",
        "( type fifo )",
        "( regular contents x )",
        "( type regular )",
        "( type regular executable '' )",
        "( type regular executable contents x )",
        "( type regular executable x contents x )",
        "( type regular executable '' executable '' contents x )",
        "( type regular contents x executable '' )",
        "( type regular contents x contents x )",
        "( type regular contents x",
        "( type symlink )",
        "( type symlink contents x )",
        "( type directory",
        "( type directory node ( type directory ) )",
        "( type directory entry )",
        "( type directory entry ( ) )",
        "( type directory entry ( name a ) )",
        "( type directory entry ( node ( type directory ) name a ) )",
        "( type directory entry ( name a name b node ( type directory ) ) )",
        "( type directory entry ( name a node ( type directory ) )",
        "( type directory contents x )",
        "( type directory ) )",
        "( type directory ) ( type directory )",
        "( type type directory )",
        "( type directory type directory )",
        "( TYPE directory )",
    ] {
        assert!(read(&nar(bad)).is_err(), "{bad}");
    }
    assert!(read(&[]).is_err());
    assert!(read(&strings(&["nix-archive-2", "(", "type", "directory", ")"])).is_err());
    assert!(read(&strings(&["(", "type", "directory", ")"])).is_err());
}

#[test]
fn names_stay_in_their_directory() {
    let longest = "n".repeat(MAX_NAME);
    for good in ["...", "..a", "-", "\u{1}", "a~nix~case~hack~1", &longest] {
        assert_eq!(read(&nar(&directory(&[entry(good, FILE)]))), Ok(()), "{good:?}");
    }
    for bad in [".", "..", "/", "a/b", "../a", "a\0", "\0"] {
        assert!(matches!(read(&nar(&directory(&[entry(bad, FILE)]))), Err(Error::Name { at: 128, .. })), "{bad:?}");
    }
    for bad in ["''", &format!("{longest}n")] {
        assert!(matches!(read(&nar(&directory(&[entry(bad, FILE)]))), Err(Error::Length { at: 128, .. })), "{bad:?}");
    }
}

#[test]
fn entries_are_sorted_each_once() {
    for (first, second) in [("a", "a"), ("b", "a"), ("aa", "a"), ("a", "B"), ("\u{e9}", "z")] {
        let bad = nar(&directory(&[entry(first, FILE), entry(second, FILE)]));
        assert!(matches!(read(&bad), Err(Error::Order { .. })), "{first} {second}");
        // Whatever lies between.
        let bad = nar(&directory(&[entry(first, &nested(2)), entry(second, FILE)]));
        assert!(matches!(read(&bad), Err(Error::Order { .. })), "{first} {second}");
    }
}

#[test]
fn targets_are_what_linux_holds() {
    let target = |text: &str| nar(&format!("( type symlink target {text} )"));
    assert_eq!(read(&target(&"t".repeat(4095))), Ok(()));
    assert!(matches!(read(&target(&"t".repeat(4096))), Err(Error::Length { at: 88, found: 4096, .. })));
    assert!(matches!(read(&target("''")), Err(Error::Length { found: 0, .. })));
    assert!(matches!(read(&target("a\0b")), Err(Error::Target { at: 88 })));
}

#[test]
fn directories_nest_64_deep() {
    assert_eq!(read(&nar(&nested(MAX_DEPTH))), Ok(()));
    assert!(matches!(read(&nar(&nested(MAX_DEPTH + 1))), Err(Error::Depth { .. })));
    // A file in the last of them is fine.
    let deepest = nested(MAX_DEPTH).replacen("( type directory  )", &directory(&[entry("f", FILE)]), 1);
    assert_eq!(read(&nar(&deepest)), Ok(()));
    // Far beyond, without recursion.
    let bomb = format!("{}{}", "( type directory entry ( name d node ".repeat(10_000), ") ) ".repeat(10_000));
    assert!(matches!(in_pieces(&nar(&bomb), || usize::MAX), Err(Error::Depth { .. })));
}

#[test]
fn padding_is_zero_and_whole() {
    let text = directory(&[entry("abc", FILE)]);
    let good = nar(&text);
    let mut zeros = 0;
    for at in (0..good.len()).filter(|&at| good[at] == 0) {
        let mut bad = good.clone();
        bad[at] = 1;
        match read(&bad) {
            Err(Error::Padding { at: told }) => {
                assert_eq!(told, at as u64);
                zeros += 1;
            }
            other => assert!(other.is_err(), "byte {at}"),
        }
    }
    let expected = |word: &str| word.len().next_multiple_of(8) - word.len();
    assert_eq!(zeros, expected("nix-archive-1") + text.split_whitespace().map(expected).sum::<usize>());
}

#[test]
fn every_cut_is_told_and_so_is_every_byte_too_many() {
    let good = nar(&directory(&[entry("a", FILE), entry("l", "( type symlink target a )")]));
    for cut in 0..good.len() {
        assert!(matches!(read(&good[..cut]), Err(Error::Cut { at, .. }) if at == cut as u64), "byte {cut}");
    }
    for more in [0, 1] {
        let long = [good.as_slice(), &[more]].concat();
        assert_eq!(read(&long), Err(Error::Trailing { at: good.len() as u64 }));
    }
}

#[test]
fn a_claimed_length_is_believed_only_where_it_may_be() {
    let claim = |before: &[&str], length: u64| {
        let mut reader = Reader::new();
        reader.update(&strings(before))?;
        reader.update(&length.to_le_bytes())?;
        reader.update(&[b'x'; 100])?;
        assert!(reader.text.capacity() <= MAX_NAME, "nothing is reserved for what is claimed");
        reader.finish()
    };
    let contents = ["nix-archive-1", "(", "type", "regular", "contents"];
    assert!(matches!(claim(&contents, i64::MAX as u64), Err(Error::Cut { .. })));
    assert!(matches!(claim(&contents, 1 << 63), Err(Error::Length { .. })));
    assert!(matches!(claim(&contents, u64::MAX), Err(Error::Length { .. })));
    for before in [&[][..], &contents[..1], &contents[..2], &contents[..3], &contents[..4]] {
        assert!(matches!(claim(before, i64::MAX as u64), Err(Error::Length { .. })));
    }
}

#[test]
fn an_error_stays_and_is_one_line() {
    let mut reader = Reader::new();
    let error = reader.update(&strings(&["nix-archive-1", "(", "type", "regulax"])).unwrap_err();
    assert_eq!(error.to_string(), "at byte 56: expected `regular`, `symlink` or `directory`, found `regulax`");
    assert_eq!(reader.update(&strings(&["contents"])), Err(error.clone()));
    assert_eq!(reader.finish(), Err(error));
    let error = read(&nar(&directory(&[entry("a\n\u{1b}/", FILE)]))).unwrap_err();
    assert!(!error.to_string().contains(char::is_control), "{error}");
}

#[test]
fn the_law_holds_for_the_corpus() {
    let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/nar");
    let mut accepted = 0;
    for seed in std::fs::read_dir(&corpus).unwrap() {
        let seed = std::fs::read(seed.unwrap().path()).unwrap();
        accepted += usize::from(read(&seed).is_ok());
    }
    assert!(accepted >= 3, "seeds that are NARs: {accepted}");
}

/// A file, for the writer below.
#[derive(Debug, Clone)]
enum Tree {
    File(bool, Vec<u8>),
    Link(String),
    Directory(std::collections::BTreeMap<Vec<u8>, Tree>),
}

/// Writes a tree as `nix-store --dump` does.
fn write(tree: &Tree, out: &mut Vec<u8>) {
    out.extend(strings(&["(", "type"]));
    match tree {
        Tree::File(executable, contents) => {
            out.extend(strings(if *executable { &["regular", "executable", ""] } else { &["regular"] }));
            out.extend([string(b"contents"), string(contents)].concat());
        }
        Tree::Link(target) => out.extend(strings(&["symlink", "target", target])),
        Tree::Directory(entries) => {
            out.extend(string(b"directory"));
            for (name, tree) in entries {
                out.extend([strings(&["entry", "(", "name"]), string(name), string(b"node")].concat());
                write(tree, out);
                out.extend(string(b")"));
            }
        }
    }
    out.extend(string(b")"));
}

fn trees() -> impl Strategy<Value = Tree> {
    let file = (any::<bool>(), prop::collection::vec(any::<u8>(), 0..50)).prop_map(|(x, bytes)| Tree::File(x, bytes));
    let leaf = prop_oneof![file, "[a-z/.]{1,40}".prop_map(Tree::Link)];
    let name = prop::collection::vec(prop_oneof![1..=45_u8, 48..=255_u8], 1..20);
    leaf.prop_recursive(6, 60, 6, move |inner| {
        prop::collection::btree_map(name.clone(), inner, 0..6).prop_map(Tree::Directory)
    })
}

proptest! {
    #[test]
    fn what_a_writer_writes_is_accepted_in_any_pieces(tree in trees(), sizes in prop::collection::vec(1..100_usize, 1..20)) {
        let mut bytes = string(b"nix-archive-1");
        write(&tree, &mut bytes);
        let mut sizes = sizes.iter().copied().cycle();
        prop_assert_eq!(in_pieces(&bytes, || sizes.next().unwrap()), Ok(()));
        fuzz(&bytes);
    }

    #[test]
    fn the_law_holds_for_damaged_nars(tree in trees(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut bytes = string(b"nix-archive-1");
        write(&tree, &mut bytes);
        let at = at.index(bytes.len());
        bytes[at] = byte;
        fuzz(&bytes);
    }
}
