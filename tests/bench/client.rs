//! Asks for one thing over plain HTTP/1.1: to fill caches and to look at answers, never to measure throughput.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

/// What came.
pub struct Answer {
    pub status: u16,
    /// The beginning of the body: all of it for anything but NARs.
    pub text: String,
    /// The length of the whole.
    pub length: u64,
}

/// How long a server may take for anything: a limit that only turns a hang into a failure.
const PATIENCE: Duration = Duration::from_secs(120);

/// `GET` of this target from a port of loopback.
pub fn get(port: u16, target: &str) -> io::Result<Answer> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(format!("GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut kept = Vec::new();
    let mut buffer = vec![0; 256 * 1024];
    let mut total = 0;
    loop {
        let part = stream.read(&mut buffer)?;
        if part == 0 {
            break;
        }
        total += part as u64;
        let room = (64 * 1024_usize).saturating_sub(kept.len()).min(part);
        kept.extend_from_slice(&buffer[..room]);
    }
    understand(&kept, total).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no whole answer"))
}

/// The answer, if as much of a body came as its head announced.
fn understand(bytes: &[u8], total: u64) -> Option<Answer> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let head = std::str::from_utf8(&bytes[..end]).ok()?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let fields = head.lines().filter_map(|line| line.split_once(':'));
    let mut announced = fields.filter(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let length = total - end as u64;
    if let Some((_, value)) = announced.next()
        && value.trim().parse::<u64>().ok()? != length
    {
        return None;
    }
    Some(Answer { status, text: String::from_utf8_lossy(&bytes[end..]).into_owned(), length })
}
