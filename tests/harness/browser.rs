//! A real browser, driven over the Chrome DevTools Protocol.

use std::net::TcpStream;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use http::Method;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use crate::{Rest, eventually};

/// Names under which distributions have it.
const NAMES: [&str; 4] = ["chromium", "chromium-browser", "google-chrome", "chrome"];
/// Longest wait for one answer of the browser.
const ANSWER_WITHIN: Duration = Duration::from_mins(1);

/// One headless browser with one page.
pub struct Browser {
    socket: WebSocketStream<MaybeTlsStream<tokio::net::TcpStream>>,
    calls: u64,
    /// What went wrong in the page so far: exceptions of scripts, refusals of the browser.
    complaints: Vec<String>,
    // Dropped after the socket: the browser is killed, then its profile removed.
    _process: Child,
    _profile: TempDir,
}

impl Browser {
    /// Starts a browser with a profile of its own.
    ///
    /// # Panics
    /// When there is none on this machine: scripts/test installs it.
    pub async fn start() -> Self {
        let profile = tempfile::tempdir().expect("a temporary folder");
        let process = launch(profile.path());
        let port_file = profile.path().join("DevToolsActivePort");
        let port = eventually("the browser to listen", || async {
            let text = std::fs::read_to_string(&port_file).map_err(|error| error.to_string())?;
            let port: u16 = text.lines().next().unwrap_or_default().parse().map_err(|_| text.clone())?;
            TcpStream::connect(("127.0.0.1", port)).map_err(|error| error.to_string())?;
            Ok(port)
        })
        .await;
        let rest = Rest::new(([127, 0, 0, 1], port).into());
        let page = rest.send(Method::PUT, "/json/new?about:blank", Bytes::new()).await.expect("a new page");
        let url = page.json()["webSocketDebuggerUrl"].as_str().expect("pages can be driven").to_owned();
        let (socket, _) = tokio_tungstenite::connect_async(url).await.expect("the page is there");
        let mut browser =
            Self { socket, calls: 0, complaints: Vec::new(), _process: process, _profile: profile };
        for domain in ["Page", "Runtime", "Log"] {
            browser.call(&format!("{domain}.enable"), json!({})).await;
        }
        browser
    }

    /// Shows the page as a screen of this size would, in the given colours.
    pub async fn screen(&mut self, width: u32, height: u32, colours: &str) {
        let mobile = width < 600;
        let metrics = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile });
        self.call("Emulation.setDeviceMetricsOverride", metrics).await;
        let features = json!({ "features": [{ "name": "prefers-color-scheme", "value": colours }] });
        self.call("Emulation.setEmulatedMedia", features).await;
    }

    pub async fn open(&mut self, url: &str) {
        self.call("Page.navigate", json!({ "url": url })).await;
    }

    /// Evaluates an expression in the page and gives its value.
    pub async fn evaluate(&mut self, expression: &str) -> Value {
        let asked = json!({ "expression": expression, "awaitPromise": true, "returnByValue": true });
        let answer = self.call("Runtime.evaluate", asked).await;
        assert!(answer["exceptionDetails"].is_null(), "{expression}: {answer}");
        answer["result"]["value"].clone()
    }

    /// Waits until an expression is true, and gives its value.
    ///
    /// # Panics
    /// After 30 s, with the text of the page.
    pub async fn until(&mut self, what: &str, expression: &str) -> Value {
        let began_at = tokio::time::Instant::now();
        loop {
            // While the page changes there may be no document to ask.
            let safe = format!("(() => {{ try {{ return {expression} }} catch {{ return null }} }})()");
            let value = self.evaluate(&safe).await;
            if !matches!(value, Value::Null | Value::Bool(false)) {
                return value;
            }
            if began_at.elapsed() > ANSWER_WITHIN {
                let text = self.evaluate("document.body.innerText").await;
                panic!(
                    "{what}: not within {ANSWER_WITHIN:?}; complaints: {:?}; the page says\n{text}",
                    self.complaints
                );
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Clicks the first element that fits, with the mouse.
    pub async fn click(&mut self, selector: &str) {
        let place = format!(
            "(() => {{ const at = document.querySelector({selector:?}); if (!at) return null; \
             at.scrollIntoView({{ block: 'center', behavior: 'instant' }}); const box = at.getBoundingClientRect(); \
             return box.width ? [box.x + box.width / 2, box.y + box.height / 2] : null }})()"
        );
        let at = self.until(&format!("{selector} to be clicked"), &place).await;
        for kind in ["mousePressed", "mouseReleased"] {
            let event = json!({ "type": kind, "x": at[0], "y": at[1], "button": "left", "clickCount": 1 });
            self.call("Input.dispatchMouseEvent", event).await;
        }
    }

    /// Types where the focus is.
    pub async fn type_text(&mut self, text: &str) {
        self.call("Input.insertText", json!({ "text": text })).await;
    }

    /// Presses a key that types nothing, like `Enter` or `Tab`, or the digit of a view.
    pub async fn press(&mut self, key: &str) {
        let code = match key {
            "Enter" => 13,
            "Tab" => 9,
            digit => i32::from(digit.as_bytes()[0]),
        };
        let text = if key == "Enter" { "\r" } else { "" };
        for kind in ["keyDown", "keyUp"] {
            let event = json!({ "type": kind, "key": key, "windowsVirtualKeyCode": code, "text": text });
            self.call("Input.dispatchKeyEvent", event).await;
        }
    }

    /// Writes what the page looks like to a PNG file, all of it.
    pub async fn screenshot(&mut self, path: &Path) {
        let answer = self.call("Page.captureScreenshot", json!({ "captureBeyondViewport": true })).await;
        let script = answer["data"].as_str().expect("a picture").to_owned();
        let bytes = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, script);
        std::fs::write(path, bytes.expect("pictures come in base64")).expect("the picture can be written");
    }

    /// Gives what went wrong in the page so far.
    pub fn complaints(&self) -> &[String] {
        &self.complaints
    }

    async fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.calls += 1;
        let id = self.calls;
        let text = json!({ "id": id, "method": method, "params": parameters }).to_string();
        self.socket.send(Message::text(text)).await.expect("the browser listens");
        let answer = async {
            loop {
                let message = self.socket.next().await.expect("the browser lives").expect("whole messages");
                let Ok(text) = message.into_text() else { continue };
                let told: Value = serde_json::from_str(&text).expect("the browser speaks JSON");
                if told["id"] == id {
                    return told;
                }
                self.complaints.extend(complaint(&told));
            }
        };
        let answer = tokio::time::timeout(ANSWER_WITHIN, answer).await;
        let answer = answer.unwrap_or_else(|_| panic!("{method}: no answer within 20 s"));
        assert!(answer["error"].is_null(), "{method}: {answer}");
        answer["result"].clone()
    }
}

fn complaint(told: &Value) -> Option<String> {
    match told["method"].as_str()? {
        "Runtime.exceptionThrown" => Some(told["params"]["exceptionDetails"].to_string()),
        "Log.entryAdded" if told["params"]["entry"]["level"] == "error" => {
            Some(format!("{} {}", told["params"]["entry"]["text"], told["params"]["entry"]["url"]))
        }
        _ => None,
    }
}

fn launch(profile: &Path) -> Child {
    for name in NAMES {
        let started = Command::new(name)
            // The pages are our own, and containers have no name spaces to build the sandbox from.
            .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"])
            .args(["--disable-background-networking", "--disable-dev-shm-usage", "--remote-debugging-port=0"])
            .arg(format!("--user-data-dir={}", profile.display()))
            .arg("about:blank")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn();
        match started {
            Ok(process) => return process,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => panic!("{name} does not start: {error}"),
        }
    }
    panic!("no browser on this machine, looked for {NAMES:?}: scripts/test installs it")
}
