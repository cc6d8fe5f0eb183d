//! Webhooks of the tests: real servers of HTTPS on loopback, on threads.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use base64::Engine as _;
use serde_json::{Value, json};

/// What a webhook answers to a path and a review.
type Answer = fn(&str, Value) -> Value;

/// A webhook, which may be away for a while.
pub struct Hook {
    port: u16,
    bundle: String,
    away: Arc<AtomicBool>,
}

impl Hook {
    pub fn start(answer: Answer) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let key = rcgen::KeyPair::generate().expect("a key");
        let params = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("names");
        let cert = params.self_signed(&key).expect("a certificate");
        let der = rustls::pki_types::PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let tls = rustls::ServerConfig::builder().with_no_client_auth();
        let tls = Arc::new(tls.with_single_cert(vec![cert.der().clone()], der).expect("a server's configuration"));
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let away = Arc::<AtomicBool>::default();
        let left = away.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let connection = rustls::ServerConnection::new(tls.clone()).expect("a connection");
                let (stream, left) = (rustls::StreamOwned::new(connection, stream), left.clone());
                thread::spawn(move || serve(stream, answer, &left));
            }
        });
        Self { port, bundle: base64::engine::general_purpose::STANDARD.encode(cert.pem()), away }
    }

    /// Of 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The `clientConfig` that leads to a path of it.
    pub fn client_config(&self, path: &str) -> Value {
        json!({"url": format!("https://127.0.0.1:{}/{path}", self.port), "caBundle": self.bundle})
    }

    /// While it is away, connections end without an answer.
    pub fn set_away(&self, away: bool) {
        self.away.store(away, Ordering::SeqCst);
    }
}

/// Answers the requests of one connection.
fn serve(stream: rustls::StreamOwned<rustls::ServerConnection, TcpStream>, answer: Answer, away: &AtomicBool) {
    let mut reader = BufReader::new(stream);
    loop {
        let (mut line, mut length) = (String::new(), 0);
        if reader.read_line(&mut line).unwrap_or(0) == 0 || away.load(Ordering::SeqCst) {
            return;
        }
        let path = line.split([' ', '?']).nth(1).unwrap_or_default().to_owned();
        loop {
            let mut header = String::new();
            if reader.read_line(&mut header).unwrap_or(0) <= 2 {
                break;
            }
            if let Some(value) = header.to_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().expect("a length");
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).expect("a body");
        let review = match length {
            0 => Value::Null,
            _ => serde_json::from_slice(&body).expect("a review"),
        };
        let text = answer(path.trim_start_matches('/'), review).to_string();
        let head =
            format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n", text.len());
        let stream = reader.get_mut();
        if stream.write_all(format!("{head}{text}").as_bytes()).and_then(|()| stream.flush()).is_err() {
            return;
        }
    }
}
