use super::*;
use proptest::prelude::*;

const NIX32: &str = "0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73";

#[test]
fn the_forms_that_nix_writes_are_accepted_and_written_as_they_came() {
    for good in [
        format!("text:sha256:{NIX32}"),
        format!("fixed:sha256:{NIX32}"),
        format!("fixed:r:sha256:{NIX32}"),
        format!("fixed:git:sha1:{}", "0".repeat(32)),
        format!("fixed:md5:{}", "a".repeat(32)),
        format!("fixed:md5:{}", "A".repeat(32)),
        format!("fixed:r:sha512:{}", "0".repeat(103)),
        "fixed:sha256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=".to_owned(),
    ] {
        assert_eq!(ContentAddress::parse(&good).unwrap().to_string(), good);
    }
}

#[test]
fn anything_else_is_refused() {
    for bad in [
        String::new(),
        "fixed".to_owned(),
        "fixed:".to_owned(),
        format!("sha256:{NIX32}"),
        format!("text:r:sha256:{NIX32}"),
        format!("fixed:x:sha256:{NIX32}"),
        format!("fixed:r:git:sha256:{NIX32}"),
        format!("fixed:sha3:{NIX32}"),
        format!("fixed:sha1:{NIX32}"),
        format!("fixed:sha256:z{}", &NIX32[1..]),
        format!("fixed:sha256:{}", "g".repeat(64)),
        format!("fixed:sha256:{}", "=".repeat(44)),
        format!("fixed:sha256:{NIX32}:"),
    ] {
        assert_eq!(ContentAddress::parse(&bad), None, "{bad}");
    }
}

/// A store path that Nix 2.8 made, with what `nix path-info --json` and `nix-store --dump` say of it.
struct Vector {
    kind: String,
    path: StorePath,
    ca: ContentAddress,
    references: Vec<StorePath>,
    nar: Vec<u8>,
}

impl Vector {
    fn check(&self) -> Option<ContentCheck> {
        self.ca.check(self.path.hash(), self.references.contains(&self.path))
    }

    fn store_path(&self) -> Option<HashPart> {
        self.ca.store_path(self.path.name(), &self.references, self.path.hash(), &StoreDir::default())
    }
}

fn vectors() -> Vec<Vector> {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/nix/narinfo/content_address/vectors");
    let path = |text: &str| StorePath::parse_full(text, &StoreDir::default()).unwrap();
    let index = std::fs::read_to_string(dir.join("index")).unwrap();
    let vectors = index.lines().map(|line| {
        let words: Vec<&str> = line.split(' ').collect();
        let nar = std::fs::read(dir.join(format!("{}.nar", words[0]))).unwrap();
        assert_eq!(Sha256::of(&nar), Sha256::parse(words[3]).unwrap(), "{line}");
        Vector {
            kind: words[0].to_owned(),
            path: path(words[1]),
            ca: ContentAddress::parse(words[2]).unwrap(),
            references: words[4..].iter().map(|text| path(text)).collect(),
            nar,
        }
    });
    vectors.collect()
}

fn vector(kind: &str) -> Vector {
    vectors().into_iter().find(|vector| vector.kind == kind).unwrap()
}

fn holds(mut check: ContentCheck, nar: &[u8], piece: usize) -> bool {
    nar.chunks(piece).for_each(|piece| check.update(piece));
    check.finish()
}

#[test]
fn the_path_is_the_one_that_nix_computes() {
    let vectors = vectors();
    assert!(vectors.len() >= 14);
    for vector in vectors {
        assert_eq!(vector.store_path(), Some(vector.path.hash()), "{}", vector.kind);
    }
}

#[test]
fn r3_the_path_depends_on_everything_in_it() {
    for vector in vectors() {
        let own = vector.path.hash();
        let computed = |name: &str, references: &[StorePath], dir: &str| {
            vector.ca.store_path(name, references, own, &StoreDir::parse(dir).unwrap())
        };
        let (name, references) = (vector.path.name(), &vector.references);
        assert_ne!(computed("other", references, "/nix/store"), Some(own), "{}", vector.kind);
        assert_ne!(computed(name, references, "/gnu/store"), Some(own), "{}", vector.kind);
        let more = [&references[..], &[StorePath::parse_base(&format!("{own}-zzz")).unwrap()]].concat();
        assert_ne!(computed(name, &more, "/nix/store"), Some(own), "{}", vector.kind);
        for left_out in 0..references.len() {
            let mut fewer = references.clone();
            fewer.remove(left_out);
            assert_ne!(computed(name, &fewer, "/nix/store"), Some(own), "{}", vector.kind);
        }
    }
}

#[test]
fn r3_what_is_not_computed_here_leads_nowhere() {
    let vector = vector("text-references");
    let (own, dir) = (vector.path.hash(), StoreDir::default());
    let with_itself = [&vector.references[..], std::slice::from_ref(&vector.path)].concat();
    assert_eq!(vector.ca.store_path("both", &with_itself, own, &dir), None, "a text cannot know its own path");
    for ca in [
        format!("fixed:git:sha1:{}", "0".repeat(32)),
        format!("fixed:git:sha256:{NIX32}"),
        format!("fixed:r:blake3:{NIX32}"),
        format!("fixed:blake3:{NIX32}"),
        format!("text:blake3:{NIX32}"),
    ] {
        let ca = ContentAddress::parse(&ca).unwrap();
        assert_eq!(ca.store_path("x", &[], own, &dir), None, "{ca}");
        assert!(ca.check(own, false).is_none() && ca.check(own, true).is_none(), "{ca}");
    }
    let sha1 = ContentAddress::parse(&format!("text:sha1:{}", "0".repeat(32))).unwrap();
    assert_eq!(sha1.store_path("x", &[], own, &dir), None);
    for flat in [format!("fixed:sha256:{NIX32}"), format!("fixed:r:sha1:{}", "0".repeat(32))] {
        let flat = ContentAddress::parse(&flat).unwrap();
        assert!(flat.store_path("x", &[], own, &dir).is_some());
        assert_eq!(flat.store_path("x", &vector.references, own, &dir), None, "{flat}");
    }
}

#[test]
fn r3_the_nar_of_nix_has_its_address_in_pieces_of_any_size() {
    for vector in vectors() {
        let Some(_) = vector.check() else {
            assert_eq!(vector.kind, "flat-md5", "the one algorithm that is missing");
            continue;
        };
        for piece in [1, 2, 7, 8, 31, 32, 33, 100, 1 << 20] {
            assert!(holds(vector.check().unwrap(), &vector.nar, piece), "{} in pieces of {piece}", vector.kind);
        }
    }
}

#[test]
fn r3_no_other_nar_has_it() {
    for vector in vectors().iter().filter(|vector| vector.check().is_some()) {
        let refused = |nar: &[u8]| !holds(vector.check().unwrap(), nar, 64);
        for at in 0..vector.nar.len() {
            let mut other = vector.nar.clone();
            other[at] ^= 1;
            assert!(refused(&other), "{}: byte {at} differs", vector.kind);
            assert!(refused(&vector.nar[..at]), "{}: cut at {at}", vector.kind);
        }
        assert!(refused(&[&vector.nar[..], &[0]].concat()), "{}: something follows", vector.kind);
        assert!(refused(&[&vector.nar[..], &[0; 100]].concat()), "{}: much follows", vector.kind);
    }
}

#[test]
fn a_reference_to_itself_is_hashed_as_nuls_and_its_place() {
    let vector = vector("ca-self");
    let own = vector.path.hash();
    assert!(!holds(vector.ca.check(own, false).unwrap(), &vector.nar, 64), "undeclared, it is part of the content");
    // NULs where the references were are another content, though the bytes that are hashed are the same.
    let mut blank = vector.nar.clone();
    while let Some(at) = blank.windows(32).position(|window| window == own.as_bytes()) {
        blank[at..at + 32].fill(0);
    }
    assert!(!holds(vector.check().unwrap(), &blank, 64));
}

#[test]
fn an_executable_file_and_a_tree_are_no_flat_content() {
    for (kind, contents) in [("source-executable", "#!/bin/sh\n"), ("source-tree", "a\n")] {
        let digest = Sha256::of(contents.as_bytes()).nix32();
        let flat = ContentAddress::parse(&format!("fixed:sha256:{digest}")).unwrap();
        let vector = vector(kind);
        assert!(!holds(flat.check(vector.path.hash(), false).unwrap(), &vector.nar, 64), "{kind}");
    }
}

#[test]
fn a_length_that_cannot_be_is_refused() {
    let vector = vector("flat-sha256");
    for length in [u64::MAX, u64::MAX - 7, 1 << 40] {
        let mut nar = vector.nar.clone();
        nar[88..96].copy_from_slice(&length.to_le_bytes());
        assert!(!holds(vector.check().unwrap(), &nar, 13));
    }
}

/// What Nix does, in the plainest way.
fn modulo(nar: &[u8], own: HashPart) -> Vec<u8> {
    let (mut blank, mut places, mut at) = (nar.to_vec(), String::new(), 0);
    while at + 32 <= blank.len() {
        if &blank[at..at + 32] == own.as_bytes() {
            blank[at..at + 32].fill(0);
            places.push_str(&format!("|{at}"));
        }
        at += 1;
    }
    Sha256::of(&[&blank[..], places.as_bytes()].concat()).as_bytes().to_vec()
}

proptest! {
    #[test]
    fn the_modulo_digest_is_that_of_the_plain_way(
        // Few digits, so that the beginning of the hash part often stands where it does not go on.
        own in "[ab]{1,3}[a]{29}[ab]{29}", pieces in proptest::collection::vec((0_usize..=32, 0_usize..5), 0..40),
        step in 1_usize..100
    ) {
        let own = HashPart::parse(&own[own.len() - 32..]).unwrap();
        let mut nar = Vec::new();
        for (length, letters) in pieces {
            nar.extend_from_slice(&own.as_bytes()[..length]);
            nar.extend_from_slice(&b"aabx"[..letters.min(4)]);
        }
        let ca = ContentAddress {
            text: String::new(), method: Method::Recursive, algorithm: Algorithm::Sha256, digest: modulo(&nar, own),
        };
        prop_assert!(holds(ca.check(own, true).unwrap(), &nar, step));
    }
}
