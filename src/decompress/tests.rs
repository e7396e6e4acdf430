use std::io::{self, BufReader, Cursor, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use proptest::prelude::*;

use super::*;

const MEMORY: u64 = 200 << 20;
const XZ: Compression = Compression::Xz;
const ZSTD: Compression = Compression::Zstd;

/// A file of `tests/fixtures/compressed`.
fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/compressed").join(name)).unwrap()
}

/// A NAR of 3 KB, what is in most of the fixtures.
fn plain() -> Vec<u8> {
    fixture("plain.nar")
}

/// What a program makes of `input`; the programs are those of tests/run and of every Debian.
fn run(command: &str, input: &[u8]) -> Vec<u8> {
    let mut words = command.split(' ');
    let mut child = Command::new(words.next().unwrap());
    let mut child = child.args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect(command);
    let mut stdin = child.stdin.take().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(input).unwrap());
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{command}");
        output.stdout
    })
}

fn all(compression: Compression, input: impl BufRead) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    reader(compression, input, MEMORY).unwrap().read_to_end(&mut out)?;
    Ok(out)
}

/// The error that reading ends in, which is one of ours.
fn failure(compression: Compression, input: impl BufRead) -> Error {
    let error = all(compression, input).expect_err("an error");
    error.get_ref().and_then(|error| error.downcast_ref::<Error>()).expect("one of ours").clone()
}

fn damaged(compression: Compression, input: &[u8]) -> bool {
    matches!(failure(compression, input), Error::Damaged(told, _) if told == compression)
}

/// The body of each compression, one stream.
fn bodies() -> Vec<(Compression, Vec<u8>)> {
    let plain = plain();
    vec![
        (Compression::Br, fixture("plain.br")),
        (Compression::Bzip2, run("bzip2 -c", &plain)),
        (Compression::Gzip, run("gzip -c", &plain)),
        (Compression::Lz4, fixture("plain.lz4")),
        (Compression::Lz4, fixture("checked.lz4")),
        (Compression::Lz4, fixture("unchecked.lz4")),
        (Compression::Lzip, fixture("plain.lzip")),
        (Compression::Lzma, run("xz --format=lzma -c", &plain)),
        (XZ, run("xz -c", &plain)),
        (XZ, run("xz -c --check=sha256 --x86 --delta=dist=4 --lzma2", &plain)),
        (XZ, fixture("pixz.xz")),
        (ZSTD, run("zstd -q -c", &plain)),
        (ZSTD, run("zstd -q -c --ultra -22 --no-check", &plain)),
    ]
}

/// Half a megabyte that compresses somewhat.
fn noise() -> Vec<u8> {
    let mut seed = 1_u32;
    let mut byte = move || {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (seed >> 24) as u8
    };
    let mut out = Vec::new();
    while out.len() < 500_000 {
        match byte() {
            random if random < 128 => out.push(random),
            random => {
                let from = out.len().saturating_sub(usize::from(random) * usize::from(byte()));
                out.extend_from_within(from..out.len().min(from + 20));
            }
        }
    }
    out
}

#[test]
fn what_is_in_a_body_comes_out_in_any_pieces() {
    for (compression, body) in bodies() {
        assert!(supports(compression));
        assert_eq!(all(compression, body.as_slice()).unwrap(), plain(), "{compression}");
        assert_eq!(all(compression, BufReader::with_capacity(1, body.as_slice())).unwrap(), plain(), "{compression}");
        let mut reader = reader(compression, body.as_slice(), MEMORY).unwrap();
        for byte in plain() {
            let mut one = [!byte];
            assert_eq!((reader.read(&mut []).unwrap(), reader.read(&mut one).unwrap(), one), (0, 1, [byte]));
        }
        for _ in 0..2 {
            assert_eq!(reader.read(&mut [0]).unwrap(), 0, "the end is final");
        }
    }
    assert_eq!(all(Compression::None, plain().as_slice()).unwrap(), plain());
}

#[test]
fn what_programs_write_is_read() {
    let noise = noise();
    for (compression, command) in [
        (XZ, "xz -0 -c"),
        (XZ, "xz -c -T2 --block-size=60000"),
        (XZ, "xz -9e -c --check=none"),
        (Compression::Lzma, "xz --format=lzma -1 -c"),
        (ZSTD, "zstd -q -1 -c"),
        (ZSTD, "zstd -q -19 -c --long=27"),
        (ZSTD, "zstd -q -T2 -c"),
        (Compression::Bzip2, "bzip2 -1 -c"),
        (Compression::Gzip, "gzip -9 -c"),
    ] {
        let body = run(command, &noise);
        assert!(all(compression, BufReader::with_capacity(4096, body.as_slice())).unwrap() == noise, "{command}");
    }
    // Blocks that refer to the one before, and that do not; more than fit before the window is moved.
    let runs: Vec<u8> = (0..600_000_u32).map(|at| (at / 1000 % 251) as u8).collect();
    for name in ["runs-linked.lz4", "runs-blocks.lz4"] {
        assert!(all(Compression::Lz4, fixture(name).as_slice()).unwrap() == runs, "{name}");
    }
}

#[test]
fn streams_one_after_the_other_are_read_to_the_end() {
    let twice = [plain(), plain()].concat();
    for (compression, body) in bodies() {
        let body = [body.as_slice(), &body].concat();
        match compression {
            // Formats of one stream.
            Compression::Br | Compression::Lzma => assert!(damaged(compression, &body), "{compression}"),
            _ => assert_eq!(all(compression, body.as_slice()).unwrap(), twice, "{compression}"),
        }
    }
    assert_eq!(all(Compression::Bzip2, fixture("pbzip2.bz2").as_slice()).unwrap(), plain());
    let (half, rest) = twice.split_at(1000);
    for (compression, command) in [(ZSTD, "zstd -q -c"), (Compression::Gzip, "gzip -c"), (XZ, "xz -c")] {
        let body = [run(command, half), run(command, b""), run(command, rest)].concat();
        assert_eq!(all(compression, body.as_slice()).unwrap(), twice, "{compression}");
    }
}

#[test]
fn skippable_frames_and_padding_hold_nothing() {
    let skippable = [&0x184D_2A5F_u32.to_le_bytes()[..], &5_u32.to_le_bytes(), b"12345"].concat();
    for (compression, frame) in [(ZSTD, run("zstd -q -c", &plain())), (Compression::Lz4, fixture("plain.lz4"))] {
        for body in [[&skippable[..], &frame, &skippable, &skippable, &frame].concat(), skippable.clone()] {
            let frames = if body == skippable { 0 } else { 2 };
            assert_eq!(all(compression, body.as_slice()).unwrap(), plain().repeat(frames), "{compression}");
            for cut in 1..skippable.len() {
                let cut = &body[..body.len() - cut];
                if frames == 0 {
                    assert_eq!(failure(compression, cut), Error::Cut(compression));
                }
            }
        }
    }
    let stream = run("xz -c", &plain());
    let padded = |zeros: usize| [stream.as_slice(), &vec![0; zeros]].concat();
    for zeros in [4, 8, 1 << 20] {
        assert_eq!(all(XZ, padded(zeros).as_slice()).unwrap(), plain());
        assert_eq!(all(XZ, [padded(zeros), padded(0)].concat().as_slice()).unwrap(), plain().repeat(2));
    }
    for zeros in [1, 2, 3, 5] {
        assert!(damaged(XZ, &padded(zeros)));
        assert!(damaged(XZ, &[padded(zeros), padded(0)].concat()));
    }
}

#[test]
fn r8_every_cut_is_an_error() {
    for (compression, body) in bodies() {
        for cut in 0..body.len() {
            assert_eq!(failure(compression, &body[..cut]), Error::Cut(compression), "{compression} at {cut}");
        }
    }
    // In the second of two, but for the place between them.
    for (compression, body) in bodies() {
        let twice = [body.as_slice(), &body].concat();
        for cut in body.len() + 1..twice.len() {
            assert!(all(compression, &twice[..cut]).is_err(), "{compression} at {cut}");
        }
    }
}

#[test]
fn one_byte_too_many_is_an_error() {
    for (compression, body) in bodies() {
        for byte in [0, 1, b'\n', b'B', 0x1F, 0x28, 0xFD, 0xFF] {
            let long = [body.as_slice(), &[byte]].concat();
            assert!(all(compression, long.as_slice()).is_err(), "{compression}, {byte}");
            let long = BufReader::with_capacity(1, long.as_slice());
            assert!(all(compression, long).is_err(), "{compression}, {byte}, alone");
        }
    }
}

#[test]
fn other_formats_are_refused() {
    for (compression, _) in bodies() {
        for body in [&b"nix-archive"[..], &[0; 64], &[0xFF; 64], &plain()] {
            assert!(all(compression, body).is_err(), "{compression}");
        }
    }
    assert!(damaged(Compression::Lz4, &fixture("old.lz4")));
    assert!(damaged(Compression::Br, &fixture("large-window.br")));
    for old in 0xFD2F_B522..=0xFD2F_B527_u32 {
        assert!(damaged(ZSTD, &[&old.to_le_bytes()[..], &[0; 64]].concat()));
    }
    for compression in Compression::ALL {
        let refused = reader(compression, &b""[..], MEMORY).err();
        assert_eq!(refused, (!supports(compression)).then_some(Error::Unsupported(compression)));
    }
}

/// A zstd frame of one byte with a window of `2^log` bytes.
fn zstd_window(log: u8) -> Vec<u8> {
    vec![0x28, 0xB5, 0x2F, 0xFD, 0, (log - 10) << 3, 0x09, 0, 0, b'x']
}

/// An xz stream of one block whose dictionary has `(2 + code % 2) << (code / 2 + 11)` bytes.
fn xz_dictionary(code: u8) -> Vec<u8> {
    let mut body = run("xz -c -0 --check=none", b"x");
    assert_eq!(body[14..16], [0x21, 1], "the block's filter");
    body[16] = code;
    let sum = body[12..20].iter().fold(u32::MAX, |sum, &byte| {
        (0..8).fold(sum ^ u32::from(byte), |sum, _| if sum & 1 == 1 { sum >> 1 ^ 0xEDB8_8320 } else { sum >> 1 })
    });
    body[20..24].copy_from_slice(&(!sum).to_le_bytes());
    body
}

#[test]
fn r29_windows_are_bounded() {
    assert_eq!(all(ZSTD, zstd_window(27).as_slice()).unwrap(), b"x");
    assert_eq!(all(XZ, xz_dictionary(30).as_slice()).unwrap(), b"x", "128 MiB");
    for (compression, body) in [
        (ZSTD, zstd_window(28)),
        (ZSTD, zstd_window(31)),
        (XZ, xz_dictionary(31)),
        (XZ, xz_dictionary(37)),
        (XZ, xz_dictionary(40)),
    ] {
        let error = failure(compression, body.as_slice());
        assert_eq!(error, Error::Memory(compression, MEMORY));
        assert_eq!(error.to_string(), format!("{compression}: wants more memory than 209715200 bytes"));
    }
    let mut lzma = run("xz --format=lzma -c", b"x");
    lzma[1..5].copy_from_slice(&(1_u32 << 28).to_le_bytes());
    assert_eq!(failure(Compression::Lzma, lzma.as_slice()), Error::Memory(Compression::Lzma, MEMORY));
    let mut lzip = fixture("plain.lzip");
    lzip[5] = 29;
    assert_eq!(failure(Compression::Lzip, lzip.as_slice()), Error::Memory(Compression::Lzip, MEMORY));
}

#[test]
fn r29_less_memory_means_smaller_windows() {
    let most = |compression, body: &[u8], memory| reader(compression, body, memory).unwrap().read(&mut [0; 9]).is_ok();
    for (mebibytes, log) in [(9, 23), (10, 23), (17, 24), (129, 27)] {
        assert!(most(ZSTD, &zstd_window(log), mebibytes << 20));
        assert!(!most(ZSTD, &zstd_window(log + 1), mebibytes << 20));
        assert!(most(XZ, &xz_dictionary(2 * log - 24), mebibytes << 20));
        assert!(!most(XZ, &xz_dictionary(2 * log - 22), mebibytes << 20));
    }
    for compression in Compression::ALL.into_iter().filter(|&compression| supports(compression)) {
        assert!(reader(compression, &b""[..], 24 << 20).is_ok(), "{compression}");
        let none = reader(compression, &b""[..], 1000).err();
        assert_eq!(none, (compression != Compression::None).then_some(Error::Memory(compression, 1000)));
    }
}

/// An input that fails after its bytes.
struct Failing(Cursor<Vec<u8>>);

impl Read for Failing {
    fn read(&mut self, output: &mut [u8]) -> io::Result<usize> {
        match self.0.read(output)? {
            0 => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the peer left")),
            read => Ok(read),
        }
    }
}

#[test]
fn what_the_input_fails_with_is_not_the_streams_fault() {
    for (compression, body) in bodies() {
        for keep in [0, 3, body.len() / 2, body.len() - 1, body.len()] {
            let input = Failing(Cursor::new(body[..keep].to_vec()));
            let mut reader = reader(compression, BufReader::with_capacity(5, input), MEMORY).unwrap();
            let error = reader.read_to_end(&mut Vec::new()).unwrap_err();
            // Decoders of one stream know their end without asking, the rest must ask.
            assert_eq!(error.to_string(), "the peer left", "{compression}, {keep}");
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
            let later = reader.read(&mut [0]).unwrap_err();
            assert_eq!(later.to_string(), format!("{compression}: the input failed before"));
        }
    }
}

#[test]
fn errors_are_final_and_one_line() {
    for (compression, mut body) in bodies() {
        let middle = body.len() / 2;
        body[middle..].fill(0xA5);
        let mut reader = reader(compression, body.as_slice(), MEMORY).unwrap();
        let error = reader.read_to_end(&mut Vec::new()).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{compression}: ")) && !error.contains('\n'), "{error}");
        for room in [0, 1, 100] {
            assert_eq!(reader.read(&mut vec![0; room]).unwrap_err().to_string(), error);
        }
    }
}

#[test]
fn r27_bzip2_streams_hold_something_or_are_few() {
    let empty = run("bzip2 -c", b"");
    assert_eq!(all(Compression::Bzip2, empty.repeat(64).as_slice()).unwrap(), b"");
    assert!(damaged(Compression::Bzip2, &empty.repeat(1000)));
    // As a parallel compressor writes what compresses very well.
    let zeros = run("bzip2 -c", &vec![0; 100_000]);
    assert_eq!(all(Compression::Bzip2, zeros.repeat(100).as_slice()).unwrap().len(), 10_000_000);
}

/// A frame of lz4 with `blocks` blocks of 4 MiB of zeros.
fn lz4_bomb(blocks: usize) -> Vec<u8> {
    // A literal, then one match at distance 1 for all but the last five bytes, which are literals.
    let matched = (4 << 20) - 1 - 5 - 4 - 15;
    let mut block = vec![0x1F, 0, 1, 0];
    block.extend(vec![255; matched / 255]);
    block.extend([u8::try_from(matched % 255).unwrap(), 0x50, 0, 0, 0, 0, 0]);
    let block = [&u32::try_from(block.len()).unwrap().to_le_bytes()[..], &block].concat();
    let head = [0x60, 0x70];
    let sum = twox_hash::XxHash32::oneshot(0, &head).to_le_bytes()[1];
    [&0x184D_2204_u32.to_le_bytes()[..], &head, &[sum], &block.repeat(blocks), &[0; 4]].concat()
}

/// The memory that this process has now, in KiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn r29_bombs_are_read_in_flat_memory() {
    const SIZE: usize = 64 << 20;
    // Other tests of this process take memory too: it goes on in one of its own.
    if std::env::var_os("BOMBS").is_none() {
        let own = std::env::current_exe().unwrap();
        let name = "decompress::tests::r29_bombs_are_read_in_flat_memory";
        let done = Command::new(own).args(["--exact", name, "--test-threads=1"]).env("BOMBS", "1").output().unwrap();
        let said = String::from_utf8_lossy(&done.stdout);
        assert!(done.status.success() && said.contains("1 passed"), "{said}");
        return;
    }
    let zeros = vec![0; SIZE];
    let mut bombs = vec![(Compression::Br, fixture("zeros.br")), (Compression::Lz4, lz4_bomb(16))];
    for (compression, command) in [
        (XZ, "xz -1 -c"),
        (Compression::Lzma, "xz --format=lzma -1 -c"),
        (ZSTD, "zstd -q -c"),
        (Compression::Bzip2, "bzip2 -c"),
        (Compression::Gzip, "gzip -c"),
    ] {
        bombs.push((compression, run(command, &zeros)));
    }
    drop(zeros);
    let (before, none) = (resident(), vec![0; 10_000]);
    for (compression, body) in bombs {
        let mut reader = reader(compression, body.as_slice(), MEMORY).unwrap();
        let (mut piece, mut read, mut most) = (vec![1; 10_000], 0, 0);
        loop {
            let some = reader.read(&mut piece).unwrap();
            if some == 0 {
                break;
            }
            assert!(piece[..some] == none[..some]);
            most = most.max(if read % (1 << 20) < some { resident() } else { 0 });
            read += some;
        }
        assert_eq!(read, SIZE, "{compression}");
        assert!(most > 0 && most < before + (24 << 10), "{compression}: {before} KiB, then {most}");
    }
}

/// The files of `fuzz/corpus/decompress`.
fn corpus() -> Vec<PathBuf> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/decompress");
    std::fs::read_dir(corpus).unwrap().map(|seed| seed.unwrap().path()).collect()
}

#[test]
fn the_law_holds_for_the_corpus() {
    for seed in corpus() {
        fuzz(&std::fs::read(&seed).unwrap());
    }
    assert!(corpus().len() >= 9, "one for each compression");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn the_law_holds_for_damaged_bodies(which in any::<prop::sample::Index>(), at in any::<prop::sample::Index>(), byte: u8) {
        let seeds = corpus();
        let mut bytes = std::fs::read(&seeds[which.index(seeds.len())]).unwrap();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        fuzz(&bytes);
    }
}
