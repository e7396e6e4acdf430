//! Sockets that the service manager opened: which are served, and what is told of those that cannot be.

use crate::support::activation::{Manager, config};
use crate::support::cache::{Key, Object};
use crate::support::client::Target;
use crate::support::origin::Origin;
use crate::support::snowbank::{Setup, Snowbank, certificates};
use std::net::UdpSocket;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};

/// What is said by a program that does not start, and its status.
fn refused(mut command: Command) -> (Option<i32>, String) {
    let output = command.stdin(Stdio::null()).output().expect("the program runs");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[tokio::test]
async fn every_socket_of_a_name_is_served() {
    let (origin, key) = (Origin::start(), Key::new("activated-1"));
    let object = Object::new("activated", 700_000);
    origin.publish(&object, &key);
    let setup = Setup::in_front_of(&origin, &key);
    let path = setup.home().join("given.sock");
    let mut manager = Manager::default();
    let four = manager.listen("web", "127.0.0.1:0");
    let tls = manager.listen("tls", "127.0.0.1:0");
    manager.listen_unix("unix", &path);
    let admin = manager.listen("admin", "127.0.0.1:0");
    let six = manager.listen("web", "[::1]:0");
    manager.keep("other", UdpSocket::bind("127.0.0.1:0").expect("a port"));
    let program = manager.start(&setup, &config(&setup).replacen("127.0.0.1:0", "fd:admin", 1));
    for told in [
        format!("listening on http://{four}"),
        format!("listening on http://{six}"),
        format!("admin on http://{admin}"),
    ] {
        program.log_line(&told, 0);
    }
    let https = Target::Https(tls, vec![certificates().authority.clone()]);
    for client in [Target::Http(four), Target::Http(six), https, Target::Unix(path.clone())] {
        client.get(&client.nar_target(&object).await).await.expect_bytes(&object.file);
    }
    assert!(program.metrics().contains("snowbank_edge_connections_open"));
    assert!(program.log_line("not served", 0).ends_with("fd:other"), "what nobody serves is told");
    for descriptor in 3..=7 {
        let info =
            std::fs::read_to_string(format!("/proc/{}/fdinfo/{descriptor}", program.id())).expect("a descriptor");
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).expect("flags").trim();
        let flags = u32::from_str_radix(flags, 8).expect("an octal number");
        assert_ne!(flags & 0o2_000_000, 0, "descriptor {descriptor} is closed in children");
        assert_ne!(flags & 0o4_000, 0, "descriptor {descriptor} does not block");
    }
    assert!(program.stop().success());
    assert!(path.exists(), "whoever made the file removes it");
}

#[test]
fn what_is_not_there_or_something_else_is_a_mistake_of_the_configuration() {
    let setup = Setup::new().upstream("https://cache.example.org", &Key::new("activated-1"));
    let file = setup.home().join("activated.toml");
    std::fs::write(&file, config(&setup).replacen("127.0.0.1:0", "fd:admin", 1)).expect("a file");
    let arguments = ["serve", "--config", file.to_str().expect("text")];
    let key = |key: &str, name: &str| format!("{}: {key} = \"fd:{name}\": expected ", file.display());

    let mut manager = Manager::default();
    manager.keep("web", UdpSocket::bind("127.0.0.1:0").expect("a port"));
    manager.keep("tls", UnixDatagram::unbound().expect("a socket"));
    let deaf = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    manager.keep("unix", deaf);
    let (status, said) = refused(manager.command(&arguments));
    assert_eq!(status, Some(64), "{said}");
    let stream = "a stream socket that listens (TCP or unix); descriptor";
    let expected = [
        format!("{}{stream} 3 is a UDP socket (ListenDatagram=)", key("listen[0].address", "web")),
        format!("{}{stream} 4 is a unix datagram socket (ListenDatagram=)", key("listen[1].address", "tls")),
        format!(
            "{}{stream} 5 is a socket that does not listen (of a unit with Accept=yes?)",
            key("listen[2].address", "unix")
        ),
        format!(
            "{}the name of a socket that was given; there are fd:tls, fd:unix, fd:web",
            key("admin.address", "admin")
        ),
    ];
    assert_eq!(said.lines().collect::<Vec<_>>(), expected);

    let mut manager = Manager::default();
    manager.keep("web", std::fs::File::open("/dev/null").expect("a file"));
    let (_, said) = refused(manager.command(&arguments));
    assert!(said.lines().next().is_some_and(|line| line.ends_with("descriptor 3 is something else")), "{said}");
}

#[test]
fn without_a_manager_it_says_so_in_a_line() {
    let setup = Setup::new();
    let dir = setup.dir().to_str().expect("text");
    let arguments = ["serve", "--upstream", "http://127.0.0.1:9", "--listen", "http://fd:web", "--dir", dir];
    let start = "--listen[0].address = \"fd:web\": expected a socket given by a service manager such as systemd; ";
    let mut alone = Command::new(env!("CARGO_BIN_EXE_snowbank"));
    alone.args(arguments);
    let mut manager = Manager::default();
    let address = manager.listen("web", "127.0.0.1:0");
    let mut of_others = Command::new(env!("CARGO_BIN_EXE_snowbank"));
    of_others.args(arguments).env("LISTEN_FDS", "1").env("LISTEN_PID", "1");
    for (command, why) in [(alone, "LISTEN_FDS is not set"), (of_others, "LISTEN_PID is \"1\"")] {
        let (status, said) = refused(command);
        assert_eq!((status, said.lines().count()), (Some(64), 1), "{said}");
        assert!(said.starts_with(&format!("{start}{why}")), "{said}");
    }
    // Nothing of this is wrong with the socket.
    let program = Snowbank::run(&mut manager.command(&arguments), setup.home());
    program.log_line(&format!("listening on http://{address}"), 0);
    assert!(program.stop().success());
}
