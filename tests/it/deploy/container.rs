//! `deploy/container`: what can be held against each other without an engine.

use super::{seconds_to_stop, text};

/// The lines after the last `FROM` that make what runs.
fn runs(file: &str) -> Vec<String> {
    let file = text(file);
    let (_, image) = file.rsplit_once("\nFROM scratch\n").expect("an image from nothing");
    image.lines().filter(|line| !line.starts_with("COPY")).map(str::to_owned).collect()
}

#[test]
fn both_ways_make_the_same_image() {
    let image = runs("deploy/container/Dockerfile");
    assert_eq!(image, runs("deploy/container/Dockerfile.prebuilt"));
    let config = text("deploy/container/snowbank.toml");
    for (line, also) in [
        ("USER 65532:65532", ""),
        ("EXPOSE 8080 8443", "address = \"[::]:8443\""),
        ("VOLUME /var/lib/snowbank", "dir = \"/var/lib/snowbank\""),
    ] {
        assert!(image.iter().any(|found| found == line) && config.contains(also), "{line}");
    }
    assert!(image.iter().any(|line| line.starts_with("HEALTHCHECK") && line.contains("\"healthcheck\"")));
    assert!(config.contains("[admin]\naddress = \"127.0.0.1:9090\""), "the health check reaches it");
}

#[test]
fn everything_that_the_image_is_made_of_is_let_in() {
    let ignored = text(".dockerignore");
    let let_in: Vec<&str> = ignored.lines().filter_map(|line| line.strip_prefix('!')).collect();
    let dockerfile = text("deploy/container/Dockerfile");
    let copied =
        dockerfile.lines().filter_map(|line| line.strip_prefix("COPY ")).filter(|line| !line.starts_with("--"));
    for line in copied {
        let (sources, _) = line.rsplit_once(' ').expect("a place");
        assert!(sources.split(' ').all(|source| let_in.contains(&source)), "{line}");
    }
}

#[test]
fn docker_waits_for_the_end_and_gives_no_rights() {
    let compose = text("deploy/container/compose.yaml");
    for line in ["read_only: true", "cap_drop: [ALL]", "no-new-privileges:true", "user: \"65532:65532\""] {
        assert!(compose.contains(line), "{line}");
    }
    let grace = compose.split_once("stop_grace_period: ").and_then(|(_, rest)| rest.split_once('s')).expect("a limit");
    let grace: u64 = grace.0.parse().expect("seconds");
    assert!(grace > seconds_to_stop(&text("deploy/container/snowbank.toml")));
}
