use super::super::request::Asker;
use super::super::testing::{
    HASH, Theirs, compressed, dir, file_nar, hash, path, pipeline, policy, unsigned, upstream_at,
};
use super::*;
use crate::metrics::Refusal;
use crate::nix::store_path::StoreDir;
use crate::upstream::testing::{Origin, Request, Step, answer, not_found};

/// A file whose hash is a name; what is in it does not matter, unless a narinfo says so.
const FILE: &[u8] = b"the file";

fn by_name(file: &[u8]) -> NarName {
    NarName::ByFileHash { file_hash: Sha256::of(file), compression: Compression::Xz }
}

fn url(file: &[u8]) -> String {
    format!("nar/{}.nar.xz", Sha256::of(file).nix32())
}

/// An origin that announces this narinfo of [`HASH`], and answers like this to whoever asks for a NAR.
async fn announcing(info: &NarInfo, nar: impl Fn(&Request) -> Vec<Step> + Send + Sync + 'static) -> Origin {
    let text = info.render(&StoreDir::default());
    Origin::start(move |request| match request.target.ends_with("narinfo") {
        true => answer("200 OK", text.clone()),
        false => nar(request),
    })
    .await
}

/// An origin that announces nothing and has these bytes under every name.
async fn silent(nar: Vec<u8>) -> Origin {
    Origin::start(move |request| match request.target.ends_with("narinfo") {
        true => not_found(),
        false => answer("200 OK", nar.clone()),
    })
    .await
}

/// A pipeline over `a` and, behind it, `b`, after the narinfo of [`HASH`] was asked for.
async fn announced(a: &Origin, b: &Origin) -> Pipeline {
    let upstreams = [a.upstream(10, "name = 'a'"), b.upstream(20, "name = 'b'")];
    let pipeline = pipeline(policy(&upstreams, Vec::new()));
    assert_eq!(pipeline.narinfo(hash(HASH), Asker::default()).await.outcome, Outcome::Miss);
    pipeline.policy.narinfos.finish().await; // the alias is kept by then
    pipeline
}

/// The validator and the bytes, or the kind of failure.
async fn got(answer: Answer) -> Result<(String, Vec<u8>), FailureKind> {
    match answer.reply {
        Reply::Nar(nar) => {
            let mut body = (nar.open)(None);
            let mut bytes = Vec::new();
            while let Some(piece) = body.next().await {
                bytes.extend_from_slice(&piece.unwrap());
            }
            Ok((nar.etag, bytes))
        }
        Reply::Failed(failure) => Err(failure.kind),
        Reply::Object(_) => panic!("no NAR"),
    }
}

fn the_file() -> (String, Vec<u8>) {
    (Sha256::of(FILE).nix32(), FILE.to_vec())
}

/// What takes the name of [`FILE`] for a NAR's, without FileHash and with another one.
fn taking_it_for_a_nar() -> [NarInfo; 2] {
    let info = NarInfo { url: url(FILE), nar_hash: Sha256::of(FILE), ..unsigned(&file_nar(b"x")) };
    [None, Some((Sha256::of(b"another"), 7))].map(|file| compressed(&info, Compression::Xz, file))
}

/// What announces [`FILE`], and lies about what is in it.
fn lying_about_its_inside() -> NarInfo {
    let info = NarInfo { url: url(FILE), ..unsigned(&file_nar(b"x")) };
    compressed(&info, Compression::Xz, Some((Sha256::of(FILE), FILE.len() as u64)))
}

#[tokio::test]
async fn a_name_is_the_hash_of_a_file_where_what_was_announced_under_it_is_refused_or_gone() {
    let sending = |bytes: &'static [u8]| move |_: &Request| answer("200 OK", bytes);
    for info in taking_it_for_a_nar().into_iter().chain([lying_about_its_inside()]) {
        for (a, way) in [
            (announcing(&info, sending(b"another")).await, "wrong bytes"),
            (announcing(&info, sending(FILE)).await, "no NAR"),
            (announcing(&info, |_| not_found()).await, "gone"),
        ] {
            let b = silent(FILE.to_vec()).await;
            let pipeline = announced(&a, &b).await;
            for _ in 0..2 {
                let answer = pipeline.nar(by_name(FILE), false).await;
                assert_eq!(got(answer).await, Ok(the_file()), "{way}: {info:?}");
            }
        }
    }
}

#[tokio::test]
async fn r18_a_name_is_not_denied_while_somebody_who_may_have_the_file_is_out_of_reach() {
    let down = |_: &Request| answer("500 Internal Server Error", "");
    let [as_nar, _] = taking_it_for_a_nar();
    let b = Origin::start(move |request| match request.target.ends_with("narinfo") {
        true => not_found(),
        false => down(request),
    })
    .await;
    let a = announcing(&as_nar, |_| answer("200 OK", "another")).await;
    let answer = announced(&a, &b).await.nar(by_name(FILE), false).await;
    assert_eq!(got(answer).await, Err(FailureKind::BadGateway));
    // Who announced the file is out of reach: another one's has the same hash.
    let (a, b) = (announcing(&lying_about_its_inside(), down).await, silent(FILE.to_vec()).await);
    let answer = announced(&a, &b).await.nar(by_name(FILE), false).await;
    assert_eq!(got(answer).await, Ok(the_file()));
    // Who announced a NAR of that hash is: then it may be the name of one.
    let (a, b) = (announcing(&as_nar, down).await, silent(FILE.to_vec()).await);
    let answer = announced(&a, &b).await.nar(by_name(FILE), false).await;
    assert_eq!(got(answer).await, Err(FailureKind::BadGateway));
    assert_eq!(b.asked("nar/"), 0);
}

#[tokio::test]
async fn a_name_that_is_no_files_hash_is_denied_before_anything_leaves_and_nobody_is_to_blame() {
    let [as_nar, _] = taking_it_for_a_nar();
    let (a, b) = (announcing(&as_nar, |_| not_found()).await, silent(vec![7; 3 << 20]).await);
    let pipeline = announced(&a, &b).await;
    let answer = pipeline.nar(by_name(FILE), false).await;
    assert_eq!(got(answer).await, Err(FailureKind::NotFound));
    let (b, _) = pipeline.policy.origin_of("b").unwrap();
    assert_eq!((b.is_suspect(), b.metrics().refused.of(Refusal::WrongFileHash).get()), (false, 1));
}

/// HEAD and then GET of the NAR that this narinfo names, and how often, before the GET, it was asked for, and for more
/// than a byte of it.
async fn head_and_get(
    info: &NarInfo,
    nar: Vec<u8>,
    suspect: bool,
) -> (Result<Option<u64>, FailureKind>, Option<FailureKind>, [usize; 2]) {
    let asked = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let whole = Arc::clone(&asked);
    let a = announcing(info, move |request| {
        if request.range != Some((0, Some(0))) {
            whole.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
        answer("200 OK", nar.clone())
    })
    .await;
    let upstream = a.upstream(10, "name = 'a'");
    if suspect {
        upstream.suspect();
    }
    let pipeline = pipeline(policy(&[upstream], Vec::new()));
    let full = || {
        let Meant { hash, digest, compression } = Meant::by(info);
        NarName::Full { hash: hash.unwrap(), digest, compression }
    };
    let head = match pipeline.nar(full(), true).await.reply {
        Reply::Nar(nar) => Ok(nar.size),
        Reply::Failed(failure) => Err(failure.kind),
        Reply::Object(_) => panic!("no NAR"),
    };
    let asked = [a.asked("nar/"), asked.load(std::sync::atomic::Ordering::Relaxed)];
    let get = match pipeline.nar(full(), false).await.reply {
        Reply::Failed(failure) => Some(failure.kind),
        _ => None,
    };
    (head, get, asked)
}

#[tokio::test]
async fn head_promises_nothing_that_get_refuses() {
    let (small, large) = (file_nar(b"small"), file_nar(&vec![7; 2 << 20]));
    let wrong = |nar: &[u8]| nar.iter().map(|byte| !byte).collect::<Vec<u8>>();
    let not_found = Some(FailureKind::NotFound);
    for (nar, sent, suspect, refused, asked) in [
        (&small, small.clone(), false, None, [1, 1]),
        (&large, large.clone(), false, None, [1, 0]),
        (&large, large.clone(), true, None, [1, 1]),
        (&small, wrong(&small), false, not_found, [1, 1]),
        (&large, wrong(&large), true, not_found, [1, 1]),
    ] {
        let size = nar.len() as u64;
        let expected = (refused.map_or(Ok(Some(size)), Err), refused, asked);
        assert_eq!(head_and_get(&unsigned(nar), sent, suspect).await, expected, "{size} {suspect}");
    }
}

#[tokio::test]
async fn head_of_a_small_nar_whose_size_was_not_told_waits_for_the_proof_too() {
    let file = b"no xz at all".to_vec();
    let mut info = compressed(&unsigned(&file_nar(b"x")), Compression::Xz, Some((Sha256::of(&file), 0)));
    info.file_size = None;
    let (head, get, _) = head_and_get(&info, file, false).await;
    assert_eq!((head, get), (Err(FailureKind::NotFound), Some(FailureKind::NotFound)));
}

/// A NAR that was announced on ground that a policy does not believe in.
#[tokio::test]
async fn p8_a_request_of_before_a_reload_does_not_drop_a_nar_of_after_it() {
    for replaced in [false, true] {
        let pipeline = pipeline(policy(&[silent(Vec::new()).await.upstream(10, "name = 'a'")], Vec::new()));
        let meant = Meant::by(&unsigned(&file_nar(b"x")));
        let announced = crate::store::Announced {
            store_hash: *hash(HASH).as_bytes(),
            nar_hash: *meant.digest.as_bytes(),
            nar_size: 1,
            basis: [7; 16],
        };
        let manifest = Manifest {
            blob: meant.blob(),
            size: 0,
            file_hash: *meant.digest.as_bytes(),
            compression: code_of(meant.compression),
            inside: None,
            announced: Some(announced),
            digests: Vec::new(),
        };
        pipeline.shared.store.keep_body(Arc::new(manifest)).await;
        if replaced {
            pipeline.policy.retire();
        }
        let name = NarName::Full { hash: hash(HASH), digest: meant.digest, compression: meant.compression };
        assert_eq!(got(pipeline.nar(name, false).await).await, Err(FailureKind::NotFound));
        assert_eq!(pipeline.shared.store.manifest(meant.blob()).await.is_some(), replaced);
    }
}

/// What two paths' narinfos say of one body, and an origin that holds the rest of it back until it is let go.
async fn two_paths(
    about_other: fn(NarInfo, &Theirs) -> NarInfo,
) -> (Pipeline, NarInfo, NarInfo, Arc<tokio::sync::Semaphore>) {
    let (key, nar) = (Theirs::new("cache-1", 1), file_nar(&vec![7; 2 << 20]));
    let one = key.signed(&unsigned(&nar));
    let other = NarInfo { store_path: path(hash("0123456789abcdfghijklmnpqrsvwxyz"), "other"), ..unsigned(&nar) };
    let other = about_other(other, &key);
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let (texts, held) = ([&one, &other].map(|info| info.render(&dir())), Arc::clone(&gate));
    let origin = Origin::start(move |request| {
        let of = |place: usize| answer("200 OK", texts[place].clone());
        match request.target.as_str() {
            target if target.contains("other") || target.starts_with("/0123456789abcdf") => of(1),
            target if target.ends_with("narinfo") => of(0),
            _ => {
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", nar.len());
                let (first, rest) = nar.split_at(nar.len() / 2);
                let [first, rest] = [first, rest].map(|part| Step::Send(part.to_vec().into()));
                vec![Step::Send(head.into()), first, Step::Hold(Arc::clone(&held)), rest]
            }
        }
    })
    .await;
    let upstream = upstream_at(&format!("http://{}", origin.address), "a", "keys", &[&key]);
    (pipeline(policy(&[upstream], Vec::new())), one, other, gate)
}

fn ours_of(info: &NarInfo) -> NarName {
    let Meant { hash, digest, compression } = Meant::by(info);
    NarName::Full { hash: hash.unwrap(), digest, compression }
}

#[tokio::test]
async fn r1_who_reads_along_with_another_paths_fill_needs_a_narinfo_that_is_trusted() {
    let (pipeline, one, other, gate) = two_paths(|info, _| Theirs::new("stranger-1", 2).signed(&info)).await;
    let first = pipeline.nar(ours_of(&one), false).await;
    assert_eq!(first.outcome, Outcome::Miss);
    assert_eq!(got(pipeline.nar(ours_of(&other), false).await).await, Err(FailureKind::NotFound));
    gate.add_permits(1);
    assert_eq!(got(first).await.map(|(_, bytes)| bytes.len() as u64), Ok(one.nar_size));
}

#[tokio::test]
async fn r7_who_reads_along_with_another_paths_fill_has_the_bytes_held_against_its_own_narinfo() {
    let (pipeline, one, other, gate) = two_paths(|info, key| key.signed(&info)).await;
    let (first, second) = (pipeline.nar(ours_of(&one), false).await, pipeline.nar(ours_of(&other), false).await);
    assert_eq!([first.outcome, second.outcome], [Outcome::Miss, Outcome::Follower], "they say the same");
    gate.add_permits(1);
    let sizes = [got(first).await, got(second).await].map(|read| read.map(|(_, bytes)| bytes.len() as u64));
    assert_eq!(sizes, [Ok(one.nar_size), Ok(one.nar_size)]);
    // The same bytes, and another NAR in them: FileHash, which is signed by nobody, names the body.
    let (pipeline, one, other, gate) = two_paths(|info, key| {
        let file = Some((info.nar_hash, info.nar_size));
        let info = NarInfo { nar_hash: Sha256::of(b"another"), ..info };
        key.signed(&compressed(&info, Compression::None, file))
    })
    .await;
    let first = pipeline.nar(ours_of(&one), false).await;
    let name = NarName::Full { hash: other.store_path.hash(), digest: one.nar_hash, compression: Compression::None };
    let second = async {
        let answer = pipeline.nar(name, false).await;
        got(answer).await
    };
    let (second, ()) = tokio::join!(second, async { gate.add_permits(1) });
    assert_eq!(second, Err(FailureKind::NotFound));
    assert_eq!(got(first).await.map(|(_, bytes)| bytes.len() as u64), Ok(one.nar_size));
}
