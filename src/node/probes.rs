//! Readiness, liveness and startup probes: when to ask, and what the answers mean.
//!
//! [`Tracker`] is the arithmetic: period, delays, thresholds. [`ask`] is the question itself. An
//! `httpGet` is a function call into the container, no socket, or a request to the server that the
//! container made of sockets; a `tcpSocket` on a port that the container serves asks whether it takes
//! calls, and a real connection is made otherwise.
//!
//! An `exec` is a command in the container's sandbox, and a `grpc` asks the health service that the
//! container has, by a call in memory or over its socket.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::{command, grpc_health};
use crate::runtime::Container;
use crate::wire::{HttpBody, HttpService};

/// The numbers of one probe, with upstream's defaults.
#[derive(Debug, Clone, PartialEq)]
pub struct ProbePlan {
    pub initial_delay: Duration,
    pub period: Duration,
    pub timeout: Duration,
    pub success_threshold: u32,
    pub failure_threshold: u32,
    /// How long a container that fails this probe may take to stop; `None`: the pod's own grace.
    pub grace: Option<Duration>,
}

impl ProbePlan {
    pub fn of(probe: &core::Probe) -> ProbePlan {
        let seconds = |value: Option<i32>, default: u64| {
            Duration::from_secs(value.and_then(|value| u64::try_from(value).ok()).unwrap_or(default))
        };
        let count = |value: Option<i32>, default: u32| {
            value.and_then(|value| u32::try_from(value).ok()).filter(|&value| value > 0).unwrap_or(default)
        };
        ProbePlan {
            initial_delay: seconds(probe.initial_delay_seconds, 0),
            period: seconds(probe.period_seconds, 10).max(Duration::from_secs(1)),
            timeout: seconds(probe.timeout_seconds, 1).max(Duration::from_secs(1)),
            success_threshold: count(probe.success_threshold, 1),
            failure_threshold: count(probe.failure_threshold, 3),
            grace: probe
                .termination_grace_period_seconds
                .and_then(|seconds| u64::try_from(seconds).ok())
                .map(Duration::from_secs),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProbeKind {
    Startup,
    Readiness,
    Liveness,
}

impl ProbeKind {
    /// As events begin: `Readiness probe failed: …`.
    pub fn title(self) -> &'static str {
        match self {
            ProbeKind::Startup => "Startup",
            ProbeKind::Readiness => "Readiness",
            ProbeKind::Liveness => "Liveness",
        }
    }
}

/// What one probe found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Success,
    /// Why, in upstream's words where they exist.
    Failure(String),
    /// It could not be asked: whoever runs the container does not answer. Counts for nothing.
    Unknown(String),
}

/// One probe of one container in its present life.
#[derive(Debug, Clone, PartialEq)]
pub struct Tracker {
    pub kind: ProbeKind,
    plan: ProbePlan,
    /// When to ask next; `None` while an answer is awaited, or when asking is of no use.
    next: Option<Instant>,
    asking: bool,
    successes: u32,
    failures: u32,
    /// The last verdict: `None` until a threshold was first reached.
    pub verdict: Option<bool>,
}

impl Tracker {
    /// A probe that is first asked `delay` from now.
    pub fn new(kind: ProbeKind, plan: ProbePlan, now: Instant, delay: Duration) -> Tracker {
        Tracker { kind, plan, next: Some(now + delay), asking: false, successes: 0, failures: 0, verdict: None }
    }

    pub fn next(&self) -> Option<Instant> {
        self.next
    }

    /// Whether a first verdict is about to come: asked, or due.
    pub fn pending(&self, now: Instant) -> bool {
        self.verdict.is_none() && self.failures == 0 && (self.asking || self.next.is_some_and(|next| next <= now))
    }

    /// Marks the question as asked if it is due; the caller then asks it.
    pub fn take_due(&mut self, now: Instant) -> bool {
        let due = self.next.is_some_and(|next| next <= now);
        if due {
            self.next = None;
            self.asking = true;
        }
        due
    }

    /// Counts an answer. Returns the verdict if this answer reached a threshold (each time it does).
    pub fn record(&mut self, answer: &Answer, now: Instant) -> Option<bool> {
        self.asking = false;
        let ok = match answer {
            Answer::Success => true,
            Answer::Failure(_) => false,
            Answer::Unknown(_) => {
                self.next = Some(now + self.plan.period);
                return None;
            }
        };
        self.next = Some(now + self.plan.period);
        let (count, threshold) = if ok {
            self.failures = 0;
            self.successes = self.successes.saturating_add(1);
            (self.successes, self.plan.success_threshold)
        } else {
            self.successes = 0;
            self.failures = self.failures.saturating_add(1);
            (self.failures, self.plan.failure_threshold)
        };
        if count < threshold {
            return None;
        }
        self.verdict = Some(ok);
        self.verdict
    }
}

/// Whom a probe asks.
#[derive(Clone)]
pub struct Target {
    pub pod_ip: IpAddr,
    /// The container's handler, if it serves HTTP and is running.
    pub http: Option<Arc<dyn HttpService>>,
    /// The ports that the handler answers on.
    pub served: Vec<u16>,
    /// Named ports of the container.
    pub named: Vec<(String, u16)>,
    /// The container itself, if it is running, and the names of its program.
    pub running: Option<(Arc<dyn Container>, Vec<String>)>,
}

/// Asks one probe, within its timeout.
pub async fn ask(probe: &core::Probe, target: &Target) -> Answer {
    let timeout = ProbePlan::of(probe).timeout;
    let late = "context deadline exceeded (no answer within the probe's timeout)";
    let mut promptly = None;
    let asked = async {
        let mut question = question(probe, target);
        let mut prompt = std::pin::pin!(answers_promptly(probe, target, timeout / 4));
        loop {
            tokio::select! {
                answer = &mut question => return answer,
                is = &mut prompt, if promptly.is_none() => promptly = Some(is),
            }
        }
    };
    let answered = tokio::time::timeout(timeout, asked).await;
    match answered {
        Ok(answer) => answer,
        Err(_) if promptly != Some(true) => Answer::Unknown(late.into()),
        Err(_) if probe.exec.is_some() => not_run(target, late.into()).await,
        Err(_) => Answer::Failure(late.into()),
    }
}

/// Whether who would run a command was there when it was asked for. One that stood still then, and has come back
/// before the command's time was over, has not run it for long enough to blame the container.
async fn answers_promptly(probe: &core::Probe, target: &Target, soon: Duration) -> bool {
    match &target.running {
        Some((container, _)) if probe.exec.is_some() => {
            tokio::time::timeout(soon, container.answers()).await.unwrap_or(false)
        }
        _ => true,
    }
}

/// What it means that a command came to no end: that of the container, unless nobody could have run it.
async fn not_run(target: &Target, why: String) -> Answer {
    match &target.running {
        Some((container, _)) if !container.answers().await => Answer::Unknown(why),
        _ => Answer::Failure(why),
    }
}

/// Boxed: the compiler loses sight of what the several questions hold while they wait.
fn question<'a>(probe: &'a core::Probe, target: &'a Target) -> BoxFuture<'a, Answer> {
    if let Some(action) = &probe.http_get {
        Box::pin(http_get(action, target))
    } else if let Some(action) = &probe.tcp_socket {
        Box::pin(tcp_socket(action, target))
    } else if let Some(action) = &probe.exec {
        Box::pin(exec(action, target))
    } else if let Some(action) = &probe.grpc {
        Box::pin(grpc(action, target))
    } else {
        Box::pin(std::future::ready(Answer::Failure("missing probe handler".into())))
    }
}

/// An `httpGet` action, of a probe or of a `preStop` hook.
pub async fn http_get(action: &core::HTTPGetAction, target: &Target) -> Answer {
    let Some(port) = port_number(&action.port, &target.named) else {
        return Answer::Failure(format!("couldn't find port: {}", port_text(&action.port)));
    };
    let host = action.host.clone().filter(|host| !host.is_empty()).unwrap_or_else(|| target.pod_ip.to_string());
    let request = match get_request(action, &host, port) {
        Ok(request) => request,
        Err(error) => return Answer::Failure(format!("cannot make the request: {error}")),
    };
    let status = match &target.http {
        Some(service) => {
            service.call(request).await.map(|response| response.status()).map_err(|error| error.to_string())
        }
        None => dial(&host, port, request).await,
    };
    match status {
        // As upstream: redirects count as success, and bodies are not looked at.
        Ok(status) if (200..400).contains(&status.as_u16()) => Answer::Success,
        Ok(status) => Answer::Failure(format!("HTTP probe failed with statuscode: {}", status.as_u16())),
        Err(error) => Answer::Failure(format!("Get \"http://{}\": {error}", authority(&host, port))),
    }
}

/// Asks a server that the container has made of sockets.
async fn dial(host: &str, port: u16, mut request: Request<HttpBody>) -> Result<StatusCode, String> {
    // A server, unlike a proxy, is told the path alone; the host is in its header.
    let path = request.uri().path_and_query().cloned();
    *request.uri_mut() = path.map_or_else(|| Uri::from_static("/"), Uri::from);
    let stream = TcpStream::connect((host, port)).await.map_err(|error| format!("dial tcp {host}:{port}: {error}"))?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    // The connection ends with the question, also when that is given up.
    let connection = AbortOnDropHandle::new(tokio::spawn(connection));
    let answer = sender.send_request(request).await;
    drop(connection);
    answer.map(|answer| answer.status()).map_err(|error| error.to_string())
}

fn authority(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

fn get_request(action: &core::HTTPGetAction, host: &str, port: u16) -> Result<Request<HttpBody>, http::Error> {
    let path = action.path.as_deref().unwrap_or("/");
    let slash = if path.starts_with('/') { "" } else { "/" };
    let authority = authority(host, port);
    let mut request = Request::get(format!("http://{authority}{slash}{path}"));
    let given = action.http_headers.as_deref().unwrap_or_default();
    for header in given {
        request = request.header(&header.name, &header.value);
    }
    for (name, value) in [("host", authority.as_str()), ("user-agent", "kube-probe/1.36"), ("accept", "*/*")] {
        if !given.iter().any(|header| header.name.eq_ignore_ascii_case(name)) {
            request = request.header(name, value);
        }
    }
    request.body(Empty::<Bytes>::new().map_err(|never| match never {}).boxed_unsync())
}

async fn tcp_socket(action: &core::TCPSocketAction, target: &Target) -> Answer {
    let Some(port) = port_number(&action.port, &target.named) else {
        return Answer::Failure(format!("couldn't find port: {}", port_text(&action.port)));
    };
    if action.host.is_none() && target.http.is_some() && target.served.contains(&port) {
        return Answer::Success;
    }
    let host = action.host.clone().unwrap_or_else(|| target.pod_ip.to_string());
    match TcpStream::connect((host.as_str(), port)).await {
        Ok(_) => Answer::Success,
        Err(error) => Answer::Failure(format!("dial tcp {host}:{port}: {error}")),
    }
}

/// An `exec` action, of a probe or of a hook.
pub async fn exec(action: &core::ExecAction, target: &Target) -> Answer {
    let Some((container, names)) = &target.running else {
        return Answer::Failure("the container is not running".into());
    };
    let args = action.command.as_deref().unwrap_or_default();
    match command::run(container, args, names).await {
        Ok((0, _)) => Answer::Success,
        Ok((code, said)) if said.trim().is_empty() => {
            Answer::Failure(format!("command {:?} exited with {code}", args.join(" ")))
        }
        Ok((code, said)) => {
            Answer::Failure(format!("command {:?} exited with {code}: {}", args.join(" "), said.trim()))
        }
        Err(why) => not_run(target, why).await,
    }
}

async fn grpc(action: &core::GRPCAction, target: &Target) -> Answer {
    let Ok(port) = u16::try_from(action.port) else {
        return Answer::Failure(format!("couldn't find port: {}", action.port));
    };
    let address = SocketAddr::new(target.pod_ip, port);
    let service = action.service.as_deref().unwrap_or_default();
    let asked = match target.http.as_ref().filter(|_| target.served.contains(&port)) {
        Some(http) => grpc_health::call(http.as_ref(), address, service).await,
        None => grpc_health::dial(address, service).await,
    };
    match asked {
        Ok(()) => Answer::Success,
        Err(why) => Answer::Failure(why),
    }
}

fn port_number(port: &IntOrString, named: &[(String, u16)]) -> Option<u16> {
    match port {
        IntOrString::Int(port) => u16::try_from(*port).ok(),
        IntOrString::String(name) => {
            named.iter().find(|(known, _)| known == name).map(|&(_, port)| port).or_else(|| name.parse().ok())
        }
    }
}

fn port_text(port: &IntOrString) -> String {
    match port {
        IntOrString::Int(port) => port.to_string(),
        IntOrString::String(name) => name.clone(),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    fn plan() -> ProbePlan {
        ProbePlan { success_threshold: 2, failure_threshold: 3, ..ProbePlan::of(&core::Probe::default()) }
    }

    #[test]
    fn defaults_are_upstreams() {
        let plan = ProbePlan::of(&core::Probe::default());
        assert_eq!(plan.period, Duration::from_secs(10));
        assert_eq!(plan.timeout, Duration::from_secs(1));
        assert_eq!((plan.success_threshold, plan.failure_threshold), (1, 3));
        let zero = ProbePlan::of(&core::Probe { period_seconds: Some(0), ..Default::default() });
        assert_eq!(zero.period, Duration::from_secs(1), "a period of nothing would never rest");
    }

    #[test]
    fn a_verdict_needs_its_threshold_in_a_row() {
        let now = Instant::now();
        let mut tracker = Tracker::new(ProbeKind::Readiness, plan(), now, Duration::ZERO);
        let no = Answer::Failure("no".into());
        let answers = [(Answer::Success, None), (Answer::Success, Some(true)), (no.clone(), None), (no.clone(), None)];
        for (answer, verdict) in answers {
            assert_eq!(tracker.record(&answer, now), verdict);
        }
        assert_eq!(tracker.record(&Answer::Success, now), None, "a success in between starts the count again");
        for verdict in [None, None, Some(false)] {
            assert_eq!(tracker.record(&no, now), verdict);
        }
        assert_eq!(tracker.verdict, Some(false));
    }

    #[test]
    fn a_question_is_asked_once_until_answered() {
        let now = Instant::now();
        let mut tracker = Tracker::new(ProbeKind::Liveness, plan(), now, Duration::from_secs(5));
        assert!(!tracker.take_due(now));
        let later = now + Duration::from_secs(5);
        assert!(tracker.take_due(later) && !tracker.take_due(later));
        tracker.record(&Answer::Success, later);
        assert_eq!(tracker.next(), Some(later + Duration::from_secs(10)));
    }

    #[tokio::test]
    async fn a_server_made_of_sockets_is_asked_over_one() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        tokio::spawn(async move {
            for head in ["HTTP/1.1 204 No Content", "HTTP/1.1 503 Service Unavailable", "gibberish"] {
                let (mut stream, _) = listener.accept().await.expect("a connection");
                let mut heard = [0; 1024];
                let count = stream.read(&mut heard).await.expect("a request");
                assert!(heard[..count].starts_with(b"GET /healthz HTTP/1.1\r\n"));
                stream.write_all(format!("{head}\r\n\r\n").as_bytes()).await.expect("answered");
            }
        });
        let action = core::HTTPGetAction {
            path: Some("/healthz".into()),
            port: IntOrString::Int(port.into()),
            ..core::HTTPGetAction::default()
        };
        let target = Target {
            pod_ip: IpAddr::from([127, 0, 0, 1]),
            http: None,
            served: Vec::new(),
            named: Vec::new(),
            running: None,
        };
        assert_eq!(http_get(&action, &target).await, Answer::Success);
        assert_eq!(http_get(&action, &target).await, Answer::Failure("HTTP probe failed with statuscode: 503".into()));
        for words in ["invalid HTTP version", "refused"] {
            let Answer::Failure(why) = http_get(&action, &target).await else { panic!("{words}") };
            assert!(why.starts_with(&format!("Get \"http://127.0.0.1:{port}\": ")) && why.contains(words), "{why}");
        }
    }

    #[test]
    fn ports_by_number_and_name() {
        let named = [("web".to_owned(), 8080)];
        assert_eq!(port_number(&IntOrString::String("web".into()), &named), Some(8080));
        assert_eq!(port_number(&IntOrString::String("81".into()), &named), Some(81));
        assert_eq!(port_number(&IntOrString::Int(70_000), &named), None);
        assert_eq!(port_number(&IntOrString::String("none".into()), &named), None);
    }
}
