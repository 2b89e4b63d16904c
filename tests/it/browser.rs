//! Chromium without a window, driven by its own protocol (<https://chromedevtools.github.io/devtools-protocol>): JSON
//! over two pipes, each message ended by a NUL. A page that complains, asks or throws fails the test.

use std::{
    collections::BTreeSet,
    env,
    fs::{self, File},
    io::Write,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    thread,
    time::Duration,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use producers::clock;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    time::timeout,
};

use crate::judges;
use crate::world::{PATIENCE, eventually};

/// `no-sandbox`: it could not be made by root, and what is loaded is our own.
const FLAGS: [&str; 10] = [
    "--headless",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-extensions",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
];
/// How often it is seen whether all its processes are gone, and how long after each other.
const LOOKS_MAX: usize = 200;
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// A browser with one tab. End it with [`Browser::close`], which fails the test if the tab had anything to complain of.
pub struct Browser {
    child: Child,
    input: ChildStdin,
    output: BufReader<tokio::process::ChildStdout>,
    profile: PathBuf,
    session: Value,
    last_id: u64,
    complaints: Vec<String>,
    is_closed: bool,
}

impl Browser {
    /// Starts it with an empty tab.
    ///
    /// # Panics
    /// If there is no Chromium.
    pub async fn open() -> Self {
        let program = judges::path("chromium").await;
        // It keeps a socket there, whose path must be short.
        let name = format!("chromium-{}", clock::event_id().simple());
        let profile = env::temp_dir().join(name);
        fs::create_dir_all(&profile).unwrap();
        let (child, input, output) = launch(&program, &profile);
        let mut browser = Self {
            child,
            input,
            output: BufReader::new(tokio::process::ChildStdout::from_std(output).unwrap()),
            profile,
            session: Value::Null,
            last_id: 0,
            complaints: Vec::new(),
            is_closed: false,
        };
        let target = browser
            .call("Target.createTarget", json!({"url": "about:blank"}))
            .await;
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        browser.session = browser.call("Target.attachToTarget", attach).await["sessionId"].clone();
        for domain in ["Page", "Runtime", "Log", "Accessibility"] {
            browser.call(&format!("{domain}.enable"), json!({})).await;
        }
        browser.resize(1_000, 900).await;
        browser
    }

    /// Ends it.
    ///
    /// # Panics
    /// If a page had something to complain of that was not [forgiven](Self::forgive).
    pub async fn close(mut self) {
        // What was complained of before is read by then.
        self.evaluate("0").await.unwrap();
        self.is_closed = true;
        assert_eq!(self.complaints, [""; 0], "the browser complains");
    }

    /// Opens an address and waits until everything of it is there.
    pub async fn goto(&mut self, url: &str) {
        let went = self.call("Page.navigate", json!({"url": url})).await;
        assert_eq!(went["errorText"], Value::Null, "{url}");
        self.until("document.readyState === 'complete'").await;
    }

    /// Waits until an expression is true.
    pub async fn until(&mut self, expression: &str) {
        eventually(expression, async || {
            // While a page goes and another comes, there is nobody to ask.
            let is_so = self.evaluate(&format!("!!({expression})")).await.ok()?;
            is_so.as_bool()?.then_some(())
        })
        .await;
    }

    /// The value of an expression.
    pub async fn value(&mut self, expression: &str) -> Value {
        self.evaluate(expression)
            .await
            .unwrap_or_else(|error| panic!("{expression}: {error}"))
    }

    /// What can be read on the page.
    pub async fn text(&mut self) -> String {
        let text = self.value("document.body.innerText").await;
        text.as_str().unwrap().replace('\u{a0}', " ")
    }

    /// Waits until this can be read on the page.
    pub async fn reads(&mut self, text: &str) {
        let text = json!(text);
        let expression =
            format!("document.body?.innerText.replaceAll('\\u00a0', ' ').includes({text})");
        self.until(&expression).await;
    }

    /// Clicks into the middle of an element.
    pub async fn click(&mut self, selector: &str) {
        let middle = format!(
            "(() => {{ const element = document.querySelector({});
                element.scrollIntoView({{block: 'center', behavior: 'instant'}});
                const box = element.getBoundingClientRect();
                return [box.x + box.width / 2, box.y + box.height / 2]; }})()",
            json!(selector)
        );
        let middle = self.value(&middle).await;
        for kind in ["mousePressed", "mouseReleased"] {
            let click = json!({"type": kind, "x": middle[0], "y": middle[1], "button": "left", "clickCount": 1});
            self.call("Input.dispatchMouseEvent", click).await;
        }
    }

    /// Types into what has the focus, in place of what is there.
    pub async fn type_over(&mut self, text: &str) {
        self.value("document.activeElement.select()").await;
        self.call("Input.insertText", json!({"text": text})).await;
    }

    /// Presses a key and lets it go.
    pub async fn press(&mut self, key: Key) {
        let (name, code, text) = match key {
            Key::Enter => ("Enter", 13, Some("\r")),
            Key::Tab => ("Tab", 9, None),
            Key::Space => (" ", 32, Some(" ")),
        };
        for kind in ["keyDown", "keyUp"] {
            let mut event = json!({"type": kind, "key": name, "windowsVirtualKeyCode": code});
            if let (Some(text), "keyDown") = (text, kind) {
                event["text"] = json!(text);
            }
            self.call("Input.dispatchKeyEvent", event).await;
        }
    }

    /// Gives the page this many pixels.
    pub async fn resize(&mut self, width: u32, height: u32) {
        let metrics =
            json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        self.call("Emulation.setDeviceMetricsOverride", metrics)
            .await;
    }

    /// The reader prefers `light` or `dark`.
    pub async fn prefer(&mut self, scheme: &str) {
        let feature = json!({"name": "prefers-color-scheme", "value": scheme});
        self.call("Emulation.setEmulatedMedia", json!({"features": [feature]}))
            .await;
    }

    /// The reader has switched scripts off, or on.
    pub async fn run_scripts(&mut self, runs: bool) {
        let disabled = json!({"value": !runs});
        self.call("Emulation.setScriptExecutionDisabled", disabled)
            .await;
    }

    /// The roles of everything that assistive technology meets on the page.
    pub async fn roles(&mut self) -> BTreeSet<String> {
        let tree = self.call("Accessibility.getFullAXTree", json!({})).await;
        let nodes = tree["nodes"].as_array().unwrap().iter();
        let heeded = nodes.filter(|node| node["ignored"] == false);
        heeded
            .map(|node| node["role"]["value"].as_str().unwrap().to_owned())
            .collect()
    }

    /// Keeps a picture of the page as `NAME.png`, if `MILLRACE_PICTURES` names a folder.
    pub async fn picture(&mut self, name: &str) {
        let Some(folder) = env::var_os("MILLRACE_PICTURES") else {
            return;
        };
        let options = json!({"captureBeyondViewport": true});
        let picture = self.call("Page.captureScreenshot", options).await;
        let bytes = BASE64_STANDARD
            .decode(picture["data"].as_str().unwrap())
            .unwrap();
        fs::create_dir_all(&folder).unwrap();
        fs::write(PathBuf::from(folder).join(format!("{name}.png")), bytes).unwrap();
    }

    /// Forgets complaints that have this in them, if there are any.
    pub async fn overlook(&mut self, text: &str) {
        // What was complained of before is read by then.
        self.evaluate("0").await.unwrap();
        self.complaints
            .retain(|complaint| !complaint.contains(text));
    }

    /// Forgets complaints that have this in them: they were to be expected, and have to be there.
    pub async fn forgive(&mut self, text: &str) {
        self.evaluate("0").await.unwrap();
        let before = self.complaints.len();
        self.complaints
            .retain(|complaint| !complaint.contains(text));
        assert!(
            self.complaints.len() < before,
            "nobody complained of {text}: {:?}",
            self.complaints
        );
    }

    async fn evaluate(&mut self, expression: &str) -> Result<Value, String> {
        let options =
            json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let answer = self.try_call("Runtime.evaluate", options).await?;
        match answer.get("exceptionDetails") {
            Some(exception) => Err(exception.to_string()),
            None => Ok(answer["result"]["value"].clone()),
        }
    }

    async fn call(&mut self, method: &str, params: Value) -> Value {
        self.try_call(method, params)
            .await
            .unwrap_or_else(|error| panic!("{method}: {error}"))
    }

    /// Asks, and reads what comes until the answer.
    async fn try_call(&mut self, method: &str, params: Value) -> Result<Value, String> {
        self.last_id += 1;
        let mut message = json!({"id": self.last_id, "method": method, "params": params});
        if !self.session.is_null() {
            message["sessionId"] = self.session.clone();
        }
        let bytes = format!("{message}\0");
        let sent = self.input.write_all(bytes.as_bytes());
        sent.unwrap_or_else(|_| panic!("Chromium has ended: {}", self.stderr()));
        loop {
            let mut message = self.read().await;
            if message["id"] != self.last_id {
                self.complaints.extend(complaint(&message));
                continue;
            }
            return match message.get("error") {
                Some(error) => Err(error.to_string()),
                None => Ok(message["result"].take()),
            };
        }
    }

    async fn read(&mut self) -> Value {
        let mut bytes = Vec::new();
        let read = timeout(PATIENCE, self.output.read_until(0, &mut bytes)).await;
        let read = read.unwrap_or_else(|_| {
            panic!(
                "Chromium does not answer; it complained of {:?}: {}",
                self.complaints,
                self.stderr()
            )
        });
        assert!(read.unwrap() > 0, "Chromium has ended: {}", self.stderr());
        bytes.pop();
        serde_json::from_slice(&bytes).unwrap()
    }

    fn stderr(&self) -> String {
        fs::read_to_string(self.profile.join("stderr")).unwrap_or_default()
    }
}

/// A key.
#[derive(Debug, Clone, Copy)]
pub enum Key {
    /// Sends a form, presses a button.
    Enter,
    /// To the next element.
    Tab,
    /// Presses a button.
    Space,
}

/// The shell gives Chromium the pipes as it wants them: it reads from 3 and writes to 4.
fn launch(program: &str, profile: &Path) -> (Child, ChildStdin, ChildStdout) {
    let mut child = Command::new("sh")
        .args(["-c", "exec \"$@\" 3<&0 4>&1 </dev/null >/dev/null", "sh"])
        .arg(program)
        .args(FLAGS)
        .arg(format!("--user-data-dir={}", profile.display()))
        .env("TMPDIR", profile)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(File::create(profile.join("stderr")).unwrap())
        .process_group(0)
        .spawn()
        .unwrap();
    let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    (child, input, output)
}

/// What a message complains of, if it does.
fn complaint(message: &Value) -> Option<String> {
    let params = &message["params"];
    let is_bad = match message["method"].as_str()? {
        "Runtime.exceptionThrown" | "Page.javascriptDialogOpening" | "Inspector.targetCrashed" => {
            true
        }
        "Runtime.consoleAPICalled" => params["type"] != "log",
        "Log.entryAdded" => params["entry"]["level"] != "verbose",
        _ => false,
    };
    is_bad.then(|| params.to_string())
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Its other processes outlive it a little, and would write to the profile until then.
        let group = format!("-{}", self.child.id());
        let signal = |name| Command::new("kill").args([name, "--", &group]).output();
        let _ = signal("-KILL");
        let _ = self.child.wait();
        for _ in 0..LOOKS_MAX {
            if signal("-0").is_ok_and(|output| !output.status.success()) {
                break;
            }
            thread::sleep(LOOK_EVERY);
        }
        let deleted = fs::remove_dir_all(&self.profile);
        if thread::panicking() {
            return;
        }
        assert!(self.is_closed, "close the browser: complaints count");
        deleted.unwrap();
    }
}
