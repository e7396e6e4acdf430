//! Sockets that were opened by whoever started the program, as systemd does it for `.socket` units (sd_listen_fds(3)).
//!
//! ```text
//! LISTEN_FDS sockets from descriptor 3 on, for the process LISTEN_PID, called LISTEN_FDNAMES ──▶ fd:NAME
//! ```
//!
//! They are taken once, before there are threads, and the variables with them: no child is to think that they are for it.
//! Several may have one name, such as those of `ListenStream=` lines for IPv4 and IPv6. What is no listening stream socket is
//! kept as such, so that whoever asks for it is told.
//!
//! Out of scope: serving them (`edge::listener`).

use std::fmt;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::str::FromStr;

use listenfd::ListenFd;
use socket2::SockRef;

/// The variables of the protocol; [`Inherited::of_process`] takes the first two out of the environment.
pub const VARIABLES: [&str; 3] = ["LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"];
/// The descriptor of the first one.
const FIRST: usize = 3;
/// More than these are no list of sockets, but a mistake.
const MOST: usize = 1024;
/// The name of one that has none (sd_listen_fds_with_names(3)).
const UNNAMED: &str = "unknown";

/// The name of such sockets, written `fd:NAME`: `FileDescriptorName=` of the `.socket` unit, or the unit's own name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SocketName(String);

/// The text is no `fd:NAME`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotAName;

impl FromStr for SocketName {
    type Err = NotAName;

    /// What systemd allows: 1 to 255 characters of ASCII, no control characters and no colon.
    fn from_str(text: &str) -> Result<Self, NotAName> {
        let name = text.strip_prefix("fd:").ok_or(NotAName)?;
        let allowed = name.bytes().all(|b| (b' '..0x7f).contains(&b) && b != b':');
        let is_name = allowed && (1..=255).contains(&name.len());
        is_name.then(|| Self(name.to_owned())).ok_or(NotAName)
    }
}

impl fmt::Display for SocketName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "fd:{}", self.0)
    }
}

/// A socket that listens.
#[derive(Debug)]
pub enum Socket {
    /// IPv4 or IPv6.
    Tcp(TcpListener),
    /// A stream socket. Its file is not ours to remove.
    Unix(UnixListener),
}

/// The sockets, as far as they were not taken yet. The default has none.
#[derive(Debug, Default)]
pub struct Inherited {
    given: Vec<Given>,
    /// Why there are none.
    why_none: Option<String>,
}

#[derive(Debug)]
struct Given {
    descriptor: usize,
    name: String,
    /// Or what it is instead.
    socket: Result<Socket, &'static str>,
}

impl Inherited {
    /// Takes what this process was given, and removes `LISTEN_FDS` and `LISTEN_PID` from its environment.
    ///
    /// To be called once, before there are threads: another one may be reading the environment.
    pub fn of_process() -> Self {
        let [count, process, names] = VARIABLES.map(|name| std::env::var(name).ok());
        if let Some(why_none) = why_none(count.as_deref(), process.as_deref(), std::process::id()) {
            return Self { given: Vec::new(), why_none: Some(why_none) };
        }
        let mut sockets = ListenFd::from_env();
        let mut names = names.as_deref().unwrap_or_default().split(':');
        let given = (0..sockets.len()).map(|nth| {
            let name = names.next().filter(|name| !name.is_empty()).unwrap_or(UNNAMED).to_owned();
            Given { descriptor: FIRST + nth, name, socket: take(&mut sockets, nth) }
        });
        Self { given: given.collect(), why_none: None }
    }

    /// Looks whether [`take`](Self::take) will give sockets.
    ///
    /// # Errors
    /// What is expected in place of this name, or of the socket that has it.
    pub fn check(&self, name: &SocketName) -> Result<(), String> {
        if self.given.is_empty() {
            let why = self.why_none.as_deref().unwrap_or("none was given");
            return Err(format!("a socket given by a service manager such as systemd; {why}"));
        }
        let mut called = self.given.iter().filter(|given| given.name == name.0).peekable();
        if called.peek().is_none() {
            return Err(format!("the name of a socket that was given; there are {}", self.names()));
        }
        match called.find_map(|given| given.socket.as_ref().err().map(|what| (given.descriptor, what))) {
            None => Ok(()),
            Some((descriptor, what)) => {
                Err(format!("a stream socket that listens (TCP or unix); descriptor {descriptor} is {what}"))
            }
        }
    }

    /// The sockets of this name, at least one.
    ///
    /// # Errors
    /// As of [`check`](Self::check).
    pub fn take(&mut self, name: &SocketName) -> Result<Vec<Socket>, String> {
        self.check(name)?;
        let (called, others) = std::mem::take(&mut self.given).into_iter().partition(|given| given.name == name.0);
        self.given = others;
        Ok(called.into_iter().filter_map(|given: Given| given.socket.ok()).collect())
    }

    /// The names of those that were not taken, if there are any: whoever connects there waits for nothing.
    pub fn left(&self) -> Option<String> {
        (!self.given.is_empty()).then(|| self.names())
    }

    fn names(&self) -> String {
        let mut names: Vec<String> = self.given.iter().map(|given| format!("fd:{}", given.name)).collect();
        names.sort_unstable();
        names.dedup();
        names.join(", ")
    }
}

/// Why nothing was given to this process, if that is so.
fn why_none(count: Option<&str>, process: Option<&str>, this: u32) -> Option<String> {
    let Some(count) = count else {
        return Some("LISTEN_FDS is not set: it was not started through a .socket unit".to_owned());
    };
    match count.parse::<usize>() {
        Ok(0) => return Some("LISTEN_FDS is 0".to_owned()),
        Ok(count) if count <= MOST => {}
        _ => return Some(format!("LISTEN_FDS is {count:?}, which is no number of sockets")),
    }
    match process {
        Some(process) if process.parse() == Ok(this) => None,
        Some(process) => Some(format!("LISTEN_PID is {process:?}, and this is process {this}")),
        None => Some("LISTEN_PID is not set, so they may be for another process".to_owned()),
    }
}

fn take(sockets: &mut ListenFd, nth: usize) -> Result<Socket, &'static str> {
    const DEAF: &str = "a socket that does not listen (of a unit with Accept=yes?)";
    if let Ok(Some(tcp)) = sockets.take_tcp_listener(nth) {
        return listens(&SockRef::from(&tcp)).then_some(Socket::Tcp(tcp)).ok_or(DEAF);
    }
    if let Ok(Some(unix)) = sockets.take_unix_listener(nth) {
        return listens(&SockRef::from(&unix)).then_some(Socket::Unix(unix)).ok_or(DEAF);
    }
    // Taken for the name alone, and closed.
    if let Ok(Some(_)) = sockets.take_udp_socket(nth) {
        return Err("a UDP socket (ListenDatagram=)");
    }
    if let Ok(Some(_)) = sockets.take_unix_datagram(nth) {
        return Err("a unix datagram socket (ListenDatagram=)");
    }
    Err("something else")
}

fn listens(socket: &SockRef<'_>) -> bool {
    socket.is_listener().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_systemd() {
        for text in ["fd:web", "fd:snowbank.socket", "fd:a b"] {
            assert_eq!(text.parse::<SocketName>().map(|name| name.to_string()).as_deref(), Ok(text));
        }
        for text in ["", "web", "fd:", "fd:a:b", "fd:a\n", "fd:\u{e4}", &format!("fd:{}", "a".repeat(256))] {
            assert_eq!(text.parse::<SocketName>(), Err(NotAName), "{text}");
        }
    }

    #[test]
    fn what_is_for_another_process_is_left_alone() {
        assert_eq!(why_none(Some("2"), Some("7"), 7), None);
        for (count, process, told) in [
            (None, None, "LISTEN_FDS is not set"),
            (Some("0"), Some("7"), "LISTEN_FDS is 0"),
            (Some("-1"), Some("7"), "which is no number"),
            (Some("4294967295"), Some("7"), "which is no number"),
            (Some("1"), Some("8"), "LISTEN_PID is \"8\""),
            (Some("1"), Some(""), "LISTEN_PID is \"\""),
            (Some("1"), None, "LISTEN_PID is not set"),
        ] {
            let why = why_none(count, process, 7).unwrap_or_default();
            assert!(why.contains(told), "{count:?} {process:?}: {why}");
        }
    }

    /// Sockets as they come out of the environment.
    fn inherited(sockets: Vec<(&str, Result<Socket, &'static str>)>) -> Inherited {
        let given = sockets.into_iter().enumerate().map(|(nth, (name, socket))| Given {
            descriptor: FIRST + nth,
            name: name.to_owned(),
            socket,
        });
        Inherited { given: given.collect(), why_none: None }
    }

    fn tcp() -> Result<Socket, &'static str> {
        Ok(Socket::Tcp(TcpListener::bind("127.0.0.1:0").unwrap()))
    }

    #[test]
    fn all_of_one_name_are_taken_once() {
        let mut inherited = inherited(vec![("web", tcp()), ("admin", tcp()), ("web", tcp()), ("log", Err("a pipe"))]);
        let name = |text: &str| text.parse::<SocketName>().unwrap();
        assert_eq!(inherited.take(&name("fd:web")).unwrap().len(), 2);
        let why = inherited.take(&name("fd:web")).unwrap_err();
        assert!(why.ends_with("there are fd:admin, fd:log"), "{why}");
        let why = inherited.take(&name("fd:log")).unwrap_err();
        assert!(why.ends_with("descriptor 6 is a pipe"), "{why}");
        assert_eq!(inherited.take(&name("fd:admin")).unwrap().len(), 1);
        assert_eq!(inherited.left().as_deref(), Some("fd:log"));
        let why = Inherited::default().take(&name("fd:web")).unwrap_err();
        assert!(why.contains("systemd"), "{why}");
    }
}
