//! Paths whose name is the address of their content: believed without a signature, signed by us only once the content was
//! seen.

use super::{own, refuses};
use crate::support::cache::{Compression, Key, Object, narinfo_fields};
use crate::support::client::Target;
use crate::support::nix::Machine;
use crate::support::origin::{Origin, Reply};
use crate::support::snowbank::Setup;
use crate::support::static_cache;
use crate::support::trust::{by_keys, eventually, expect_signed, signatures_named};

/// Paths whose name is the address of their content, made by real Nix and signed by nobody.
struct Addressed {
    _dir: tempfile::TempDir,
    origin: Origin,
    paths: Vec<String>,
}

impl Addressed {
    fn make() -> Self {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory for the cache");
        let machine = Machine::new(&[]);
        let tree = machine.home().join("tree");
        std::fs::create_dir_all(tree.join("below")).expect("a directory");
        std::fs::write(tree.join("below/file"), "content").expect("a file");
        std::fs::write(machine.home().join("flat"), "flat content").expect("a file");
        let mut paths = vec![
            machine.ok(&["nix-store", "--add", "tree"]),
            machine.ok(&["nix-store", "--add-fixed", "sha256", "flat"]),
            machine.ok(&["nix-store", "--add-fixed", "--recursive", "sha1", "tree"]),
            machine.ok(&["nix-store", "--add-fixed", "sha512", "flat"]),
        ];
        // A text that refers to another path, and so has it in its address.
        let text = format!("builtins.toFile \"text\" \"refers to ${{builtins.storePath {}}}\"", paths[0]);
        paths.push(machine.ok(&["nix", "eval", "--impure", "--raw", "--expr", &text]));
        let url = format!("file://{}?compression=xz", dir.path().display());
        let words: Vec<&str> =
            ["nix", "copy", "--to", &url].into_iter().chain(paths.iter().map(String::as_str)).collect();
        machine.ok(&words);
        Self { origin: static_cache::serve(dir.path()), _dir: dir, paths }
    }
}

fn narinfo_of(path: &str) -> String {
    format!("/{}.narinfo", &path["/nix/store/".len()..][..32])
}

/// The fingerprint that the fields of a served narinfo spell.
fn fingerprint_of(text: &str) -> String {
    let field = |name: &str| narinfo_fields(text, name)[0];
    let references: Vec<String> = field("References")
        .split(' ')
        .filter(|name| !name.is_empty())
        .map(|name| format!("/nix/store/{name}"))
        .collect();
    format!("1;{};{};{};{}", field("StorePath"), field("NarHash"), field("NarSize"), references.join(","))
}

#[tokio::test]
async fn content_addressed_paths_need_no_signature_and_get_ours_once_their_nar_is_proven() {
    let addressed = Addressed::make();
    let setup = Setup::new()
        .named_upstream("upstream", &addressed.origin.url(), &by_keys(&[&Key::new("upstream-1")]))
        .signing(&[&own()], "");
    let snowbank = setup.start();
    snowbank.wait_for_disk();
    let client = snowbank.http();
    for path in &addressed.paths {
        let answer = client.get(&narinfo_of(path)).await.expect(200);
        assert!(answer.text().contains("\nCA: "), "{}", answer.text());
        assert!(narinfo_fields(answer.text(), "Sig").is_empty(), "signed before it was proven: {}", answer.text());
    }
    // A client that trusts no key takes them: it checks their addresses.
    let machine = Machine::new(&[]);
    for path in &addressed.paths {
        machine.ok(&["nix-store", "--realise", path, "--option", "substituters", &snowbank.http_url()]);
        let answer = client.get(&narinfo_of(path)).await.expect(200);
        if narinfo_fields(answer.text(), "CA")[0].contains(":sha1:") {
            // Two contents can have one SHA-1: proven by now, and never signed for it.
            assert!(narinfo_fields(answer.text(), "Sig").is_empty(), "{}", answer.text());
            continue;
        }
        eventually("it is signed", async || {
            let answer = client.get(&narinfo_of(path)).await.expect(200);
            let signed = !signatures_named(answer.text(), "own-1").is_empty();
            if signed {
                expect_signed(answer.text(), &fingerprint_of(answer.text()), &[&own()]);
            }
            signed
        })
        .await;
    }
    machine.verify_all();
}

/// Another NAR under this path and its address, with a NarHash that fits the NAR; `genuine` is the right narinfo.
fn evil(path: &str, genuine: &str) -> Object {
    let mut evil = Object::compressed("evil", 2_000, Compression::Xz);
    path["/nix/store/".len()..].clone_into(&mut evil.base_name);
    let references = narinfo_fields(genuine, "References")[0];
    evil.references = references.split(' ').filter(|name| !name.is_empty()).map(str::to_owned).collect();
    evil.extra = vec![format!("CA: {}", narinfo_fields(genuine, "CA")[0])];
    evil
}

/// An upstream that offers this object, unsigned.
fn offering(object: &Object) -> Origin {
    let origin = Origin::start();
    origin.serve("/nix-cache-info", Reply::bytes("StoreDir: /nix/store\n"));
    origin.serve(&object.narinfo_target(), Reply::bytes(object.narinfo(&[])));
    origin.serve(&object.file_target(), Reply::bytes(object.file.clone()));
    origin
}

/// The address gives the path, and NarHash is that of another NAR: the proof must compare the NAR with the address.
#[tokio::test]
async fn a_nar_that_is_not_what_its_address_says_is_refused_and_never_signed() {
    let addressed = Addressed::make();
    for path in &addressed.paths {
        let genuine = Target::Http(addressed.origin.address()).get(&narinfo_of(path)).await.expect(200);
        let evil = evil(path, genuine.text());
        let liar = offering(&evil);
        let snowbank = Setup::new()
            .named_upstream("liar", &liar.url(), &by_keys(&[&Key::new("upstream-1")]))
            .signing(&[&own()], "")
            .start();
        snowbank.wait_for_disk();
        let (client, row) = (snowbank.http(), &evil.extra[0]);
        let answer = client.get(&evil.narinfo_target()).await;
        if answer.status == 200 {
            assert!(narinfo_fields(answer.text(), "Sig").is_empty(), "{row}: {}", answer.text());
            let nar = client.get(&evil.served_target()).await.expect(404);
            assert!(nar.text().contains("wrong-address"), "{row}: {}", nar.text());
        }
        assert_eq!(snowbank.refusals().of("liar", &["wrong-address"]), 1, "{row}: {:?}", snowbank.refusals());
        let answer = client.get(&evil.narinfo_target()).await.expect(404);
        assert!(!answer.text().contains("own-1"), "{row}: {}", answer.text());
    }
}

/// The liar offers the NAR of one path under another one, whose address it gives: the NAR was seen to have an address, but
/// not this one.
#[tokio::test]
async fn r3_the_address_of_one_path_does_not_vouch_for_another_with_the_same_nar() {
    let addressed = Addressed::make();
    let genuine = Target::Http(addressed.origin.address());
    let text = |path: &str| {
        let (genuine, target) = (genuine.clone(), narinfo_of(path));
        async move { genuine.get(&target).await.expect(200).text().to_owned() }
    };
    let (one, other) = (text(&addressed.paths[1]).await, text(&addressed.paths[2]).await);
    let file_of = |text: &str| format!("/{}", narinfo_fields(text, "URL")[0]);
    let file = genuine.get(&file_of(&one)).await.expect(200).body.clone();
    // The path and its address of the other one, everything else of the first.
    let mut lie = one.clone();
    for field in ["StorePath", "References", "CA"] {
        let line = |text: &str| text.lines().find(|line| line.starts_with(&format!("{field}:"))).map(str::to_owned);
        lie = lie.replace(&line(&one).expect("a field"), &line(&other).expect("a field"));
    }
    let origin = Origin::start();
    origin.serve(&narinfo_of(&addressed.paths[1]), Reply::bytes(one.clone()));
    origin.serve(&narinfo_of(&addressed.paths[2]), Reply::bytes(lie));
    origin.serve(&file_of(&one), Reply::bytes(file));
    let snowbank = Setup::new()
        .named_upstream("liar", &origin.url(), &by_keys(&[&Key::new("upstream-1")]))
        .signing(&[&own()], "")
        .start();
    snowbank.wait_for_disk();
    let client = snowbank.http();
    let url = |text: &str| format!("/{}", narinfo_fields(text, "URL")[0]);
    let told = client.get(&narinfo_of(&addressed.paths[1])).await.expect(200).text().to_owned();
    client.get(&url(&told)).await.expect(200);
    eventually("the genuine one is signed", async || {
        let answer = client.get(&narinfo_of(&addressed.paths[1])).await.expect(200);
        !signatures_named(answer.text(), "own-1").is_empty()
    })
    .await;
    let told = client.get(&narinfo_of(&addressed.paths[2])).await;
    assert!(signatures_named(told.text(), "own-1").is_empty(), "{}", told.text());
    client.get(&url(told.text())).await;
    let told = client.get(&narinfo_of(&addressed.paths[2])).await;
    assert!(signatures_named(told.text(), "own-1").is_empty(), "{}", told.text());
}

/// The rig by itself: real Nix takes the genuine ones without any key, and none of the others.
#[tokio::test]
async fn real_nix_tells_the_two_apart() {
    let addressed = Addressed::make();
    let machine = Machine::new(&[]);
    for path in &addressed.paths {
        let genuine = Target::Http(addressed.origin.address()).get(&narinfo_of(path)).await.expect(200);
        assert!(narinfo_fields(genuine.text(), "Sig").is_empty(), "{}", genuine.text());
        let liar = offering(&evil(path, genuine.text()));
        refuses(&machine, path, &liar.url());
        machine.ok(&["nix-store", "--realise", path, "--option", "substituters", &addressed.origin.url()]);
    }
    machine.verify_all();
}
