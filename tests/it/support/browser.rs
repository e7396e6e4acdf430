//! The real Chromium, driven over WebDriver: pages as people see them.
//!
//! ```text
//! let Some(browser) = Browser::start(&Look { width: 360, dark: true, ..Look::default() }) else { return };
//! browser.open(&url);
//! browser.click("button");
//! ```
//!
//! `tests/run` installs Chromium and its driver, and axe-core, whose file it names in `SNOWBANK_TEST_AXE`. Where one of them is missing,
//! the tests that want it say so and do nothing. Screenshots are kept in `target/tmp/pages`, for people to look at.

use super::PATIENCE;
use super::pebble::free_port;
use base64::Engine as _;
use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A name that leads to this machine, and for which the browser does not do what it does for addresses of this machine.
pub const NAME: &str = "cache.test";

/// The variable that names the file of axe-core.
const AXE: &str = "SNOWBANK_TEST_AXE";

/// How somebody looks at a page.
#[derive(Debug, Clone, Copy)]
pub struct Look {
    /// Pixels of the window.
    pub width: u32,
    /// In the dark.
    pub dark: bool,
    /// With JavaScript.
    pub script: bool,
}

impl Default for Look {
    fn default() -> Self {
        Self { width: 1440, dark: false, script: true }
    }
}

/// A browser of its own with one window; dropping it ends it.
pub struct Browser {
    driver: Child,
    port: u16,
    session: String,
    look: Look,
    _home: tempfile::TempDir,
}

impl Browser {
    /// One that looks at pages so; `None`, and a line that says why, where it is not installed.
    pub fn start(look: &Look) -> Option<Self> {
        let (Some(driver), Some(chromium)) = (program("chromedriver"), program("chromium")) else {
            eprintln!("NOT RUN: pages in a browser: no chromium and chromedriver on the PATH");
            return None;
        };
        let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory for the browser");
        let port = free_port();
        let mut command = Command::new(driver);
        command.arg(format!("--port={port}")).env("HOME", home.path()).env("TMPDIR", home.path());
        let driver = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let mut browser =
            Self { driver: driver.expect("the driver starts"), port, session: String::new(), look: *look, _home: home };
        browser.eventually("the driver answers", || browser.try_call("GET", "/status", None).is_ok());
        let session = browser.call("POST", "/session", &capabilities(&chromium, browser._home.path()));
        session["sessionId"].as_str().expect("a session").clone_into(&mut browser.session);
        // What its own first page asked for is no business of ours.
        browser.open("about:blank");
        browser.ask("POST", "/se/log", &json!({ "type": "performance" }));
        let metrics = json!({ "width": look.width, "height": 900, "deviceScaleFactor": 1, "mobile": false });
        browser.devtools("Emulation.setDeviceMetricsOverride", &metrics);
        let scheme = if look.dark { "dark" } else { "light" };
        let media = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        browser.devtools("Emulation.setEmulatedMedia", &media);
        browser.devtools("Emulation.setScriptExecutionDisabled", &json!({ "value": !look.script }));
        Some(browser)
    }

    /// Opens a page and waits until it is there.
    #[track_caller]
    pub fn open(&self, url: &str) {
        self.ask("POST", "/url", &json!({ "url": url }));
    }

    /// What comes of this body of a function.
    #[track_caller]
    pub fn run(&self, script: &str) -> Value {
        self.ask("POST", "/execute/sync", &json!({ "script": script, "args": [] }))
    }

    /// What comes of this body of a function that calls `done` with it.
    #[track_caller]
    pub fn run_until_done(&self, script: &str) -> Value {
        let script = format!("const done = arguments[arguments.length - 1];\n{script}");
        self.ask("POST", "/execute/async", &json!({ "script": script, "args": [] }))
    }

    /// The text of the first element that this selector finds.
    #[track_caller]
    pub fn text(&self, selector: &str) -> String {
        let text = self.run(&format!("return document.querySelector({selector:?}).innerText"));
        text.as_str().unwrap_or_default().to_owned()
    }

    /// A click as a person does it: on what can be seen.
    #[track_caller]
    pub fn click(&self, selector: &str) {
        let found = self.ask("POST", "/element", &json!({ "using": "css selector", "value": selector }));
        let id = found.as_object().and_then(|found| found.values().next()).and_then(Value::as_str).expect("an element");
        self.ask("POST", &format!("/element/{id}/click"), &json!({}));
    }

    /// Presses the key of this code of WebDriver, where the focus is.
    #[track_caller]
    pub fn press(&self, key: char) {
        let strokes = [json!({ "type": "keyDown", "value": key }), json!({ "type": "keyUp", "value": key })];
        self.ask("POST", "/actions", &json!({ "actions": [{ "type": "key", "id": "keys", "actions": strokes }] }));
    }

    /// A command of the browser's own protocol.
    #[track_caller]
    pub fn devtools(&self, command: &str, parameters: &Value) -> Value {
        self.ask("POST", "/goog/cdp/execute", &json!({ "cmd": command, "params": parameters }))
    }

    /// Keeps a picture of the whole page under this name.
    #[track_caller]
    pub fn picture(&self, name: &str) {
        let shot = json!({ "format": "png", "captureBeyondViewport": true });
        let picture = self.devtools("Page.captureScreenshot", &shot);
        let bytes = base64::engine::general_purpose::STANDARD.decode(picture["data"].as_str().expect("a picture"));
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("pages");
        std::fs::create_dir_all(&dir).expect("a directory for pictures");
        let scheme = if self.look.dark { "dark" } else { "light" };
        let file = dir.join(format!("{name}-{}-{scheme}.png", self.look.width));
        std::fs::write(file, bytes.expect("base 64")).expect("a file");
    }

    /// What the page tells who cannot see it, without its script's help: the texts in the accessibility tree.
    #[track_caller]
    pub fn said(&self) -> Vec<String> {
        let tree = self.devtools("Accessibility.getFullAXTree", &json!({}));
        let nodes = tree["nodes"].as_array().expect("nodes");
        let is_text = |node: &&Value| node["role"]["value"] == "StaticText" && node["ignored"] != true;
        nodes.iter().filter(is_text).filter_map(|node| Some(node["name"]["value"].as_str()?.to_owned())).collect()
    }

    /// Panics where the page is wider than the window.
    #[track_caller]
    pub fn expect_no_overflow(&self) {
        let width = self.run("return document.scrollingElement.scrollWidth").as_u64().expect("a width");
        assert!(width <= u64::from(self.look.width), "{width} px in a window of {}", self.look.width);
    }

    /// Panics where axe-core has something to say. `false`, and a line that says why, where it is not installed.
    #[track_caller]
    pub fn expect_accessible(&self) -> bool {
        let Some(file) = std::env::var_os(AXE).filter(|file| !file.is_empty()) else {
            eprintln!("NOT RUN: accessibility of pages: no {AXE}");
            return false;
        };
        let axe = std::fs::read_to_string(file).expect("axe-core");
        // Not through the page, whose policy lets nothing in.
        let put = self.devtools("Runtime.evaluate", &json!({ "expression": format!("{axe};typeof axe") }));
        assert_eq!(put["result"]["value"], "object", "{put}");
        let told = self.run_until_done(
            "axe.run(document).then((told) => done({ violations: told.violations, incomplete: told.incomplete, \
             passes: told.passes.map((rule) => rule.id) }), (error) => done({ error: `${error}` }))",
        );
        let told_of = |kind: &str| serde_json::to_string_pretty(&told[kind]).expect("JSON");
        assert_eq!(told["violations"], json!([]), "{}", told_of("violations"));
        assert_eq!(told["incomplete"], json!([]), "{}", told_of("incomplete"));
        assert!(told["passes"].as_array().is_some_and(|passes| passes.contains(&json!("color-contrast"))), "{told}");
        true
    }

    /// Panics where the console has a line, or something was asked for that is not at `base`.
    #[track_caller]
    pub fn expect_quiet(&self, base: &str) {
        let console = self.ask("POST", "/se/log", &json!({ "type": "browser" }));
        assert_eq!(console, json!([]), "the console");
        let mut asked = Vec::new();
        for entry in self.ask("POST", "/se/log", &json!({ "type": "performance" })).as_array().expect("entries") {
            let message: Value = serde_json::from_str(entry["message"].as_str().expect("a message")).expect("JSON");
            let message = &message["message"];
            if message["method"] == "Network.requestWillBeSent" {
                asked.push(message["params"]["request"]["url"].as_str().expect("a URL").to_owned());
            }
        }
        assert!(asked.iter().any(|url| url.starts_with(base)), "{asked:?}");
        let ours = |url: &String| url.starts_with(base) || url.starts_with("data:image/svg+xml,");
        assert!(asked.iter().all(ours), "{asked:?}");
    }

    /// Asks again until `holds`; each question is answered by another program, which is the pause between.
    #[track_caller]
    pub fn eventually(&self, what: &str, holds: impl Fn() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds() {
            assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    #[track_caller]
    fn ask(&self, method: &str, path: &str, body: &Value) -> Value {
        self.call(method, &format!("/session/{}{path}", self.session), body)
    }

    #[track_caller]
    fn call(&self, method: &str, path: &str, body: &Value) -> Value {
        match self.try_call(method, path, Some(body)) {
            Ok(value) => value,
            Err(error) => panic!("{method} {path}: {error}"),
        }
    }

    /// One request of WebDriver.
    fn try_call(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value, String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).map_err(|error| error.to_string())?;
        stream.set_read_timeout(Some(PATIENCE)).expect("a time limit");
        let body = body.map(Value::to_string).unwrap_or_default();
        let head = format!("{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {}\r\n", body.len());
        let request = format!("{head}Content-Type: application/json\r\nConnection: close\r\n\r\n{body}");
        stream.write_all(request.as_bytes()).map_err(|error| error.to_string())?;
        // The driver leaves the connection open, whatever it is asked.
        let (mut answer, mut head, mut length) = (BufReader::new(stream), String::new(), 0);
        while !head.ends_with("\r\n\r\n") {
            let from = head.len();
            if answer.read_line(&mut head).map_err(|error| error.to_string())? == 0 {
                return Err(format!("no answer: {head:?}"));
            }
            if let Some((name, value)) =
                head[from..].split_once(':').filter(|(name, _)| name.eq_ignore_ascii_case("content-length"))
            {
                length = value.trim().parse().map_err(|_| format!("{name}: {value}"))?;
            }
        }
        let mut body = vec![0; length];
        answer.read_exact(&mut body).map_err(|error| error.to_string())?;
        let mut value: Value = serde_json::from_slice(&body).map_err(|error| error.to_string())?;
        if head.starts_with("HTTP/1.1 200 ") { Ok(value["value"].take()) } else { Err(value["value"].to_string()) }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The driver ends the browser with its session, and leaves it behind without.
        let _ = self.try_call("DELETE", &format!("/session/{}", self.session), None);
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

fn capabilities(chromium: &Path, home: &Path) -> Value {
    let profile = format!("--user-data-dir={}", home.join("profile").display());
    let names = format!("--host-resolver-rules=MAP {NAME} 127.0.0.1");
    let args = [
        "--headless=new",
        // Tests run as root, and in containers.
        "--no-sandbox",
        "--disable-dev-shm-usage",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        // It asks nobody but us.
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--hide-scrollbars",
        "--lang=en",
        &profile,
        &names,
    ];
    json!({ "capabilities": { "alwaysMatch": {
        "browserName": "chrome",
        "goog:chromeOptions": { "binary": chromium, "args": args },
        "goog:loggingPrefs": { "browser": "ALL", "performance": "ALL" },
    } } })
}

fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file())
}
