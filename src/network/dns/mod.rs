//! The cluster's DNS server, for processes that ask one: containers of ordinary images, and shells.
//!
//! It answers for the cluster's domain from the route table that requests are routed by, so a name leads
//! where a call would. All else is asked of the machine's own servers, byte for byte. Every node answers at
//! the same address, which each machine has for itself ([`super::anyip`]).

mod answer;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use simple_dns::rdata::{A, AAAA, CNAME, PTR, RData, SRV};
use simple_dns::{CLASS, Name, OPCODE, Packet, PacketFlag, QCLASS, QTYPE, Question, RCODE, ResourceRecord, TYPE};
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::seek::Directory;
use super::serve::{Answer as Serve, Ends};
use answer::{Answer, Kind};

use crate::wire::Transport;

/// Where all names of the cluster end.
const DOMAIN: &str = "cluster.local";
pub(super) const PORT: u16 = 53;
/// Pods come and go: what a name stood for is soon out of date. Upstream's.
const TTL_SECONDS: u32 = 5;
/// Questions answered at a time; more are dropped, and asked again by whoever wants to know.
const QUESTIONS: usize = 1024;
/// How long one server of the machine's may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// A client's connection without a question.
const IDLE: Duration = Duration::from_secs(10);
/// What an answer may have over UDP where the client says nothing else.
const PLAIN_BYTES: usize = 512;
/// What is taken from a datagram.
const MOST_BYTES: usize = 4096;
/// A second server is asked when the first does not answer; more only make the client wait.
const SERVERS: usize = 2;

/// Answers questions.
pub(super) struct Resolver {
    directory: Arc<Directory>,
    /// Where the machine's servers are told of.
    files: &'static [&'static str],
    /// Not to be asked: itself.
    own: IpAddr,
    questions: Semaphore,
}

impl Resolver {
    pub(super) fn new(directory: Arc<Directory>, own: IpAddr) -> Arc<Resolver> {
        // systemd-resolved shows the servers behind its own in another file.
        let files = &["/run/systemd/resolve/resolv.conf", "/etc/resolv.conf"];
        Arc::new(Resolver { directory, files, own, questions: Semaphore::new(QUESTIONS) })
    }

    /// Answers datagrams until `close`.
    pub(super) async fn serve(self: Arc<Self>, socket: UdpSocket, close: CancellationToken) {
        let socket = Arc::new(socket);
        let mut buffer = vec![0; MOST_BYTES];
        loop {
            let heard = tokio::select! {
                heard = socket.recv_from(&mut buffer) => heard,
                () = close.cancelled() => return,
            };
            // An error is that of an answer before: its client has gone.
            let Ok((length, from)) = heard else { continue };
            let question = buffer.get(..length).unwrap_or_default().to_vec();
            let (resolver, socket) = (self.clone(), socket.clone());
            tokio::spawn(async move {
                let Ok(_place) = resolver.questions.try_acquire() else { return };
                if let Some(answer) = resolver.answer_to(from.ip(), &question, Transport::Udp).await {
                    let _ = socket.send_to(&answer, from).await;
                }
            });
        }
    }

    /// The answer to whoever asks. Those whom policies shut off from names are told at once that they are
    /// refused, rather than left to wait.
    async fn answer_to(&self, from: IpAddr, question: &[u8], transport: Transport) -> Option<Vec<u8>> {
        if self.directory.admit(from, SocketAddr::new(self.own, PORT), transport).is_err() {
            let asked = Packet::parse(question).ok().filter(|asked| !asked.has_flags(PacketFlag::RESPONSE))?;
            return reply(&asked, RCODE::Refused).build_bytes_vec_compressed().ok();
        }
        self.answer(question, transport == Transport::Udp).await
    }

    /// The answer to a question, both as they are on the wire; `None` to what is none.
    async fn answer(&self, question: &[u8], datagram: bool) -> Option<Vec<u8>> {
        let asked = Packet::parse(question).ok()?;
        if asked.has_flags(PacketFlag::RESPONSE) {
            return None;
        }
        let query = asked.questions.first()?;
        if asked.opcode() != OPCODE::StandardQuery {
            return reply(&asked, RCODE::NotImplemented).build_bytes_vec_compressed().ok();
        }
        let kind = match query.qtype {
            QTYPE::TYPE(TYPE::A) => Kind::V4,
            QTYPE::TYPE(TYPE::AAAA) => Kind::V6,
            QTYPE::TYPE(TYPE::SRV) => Kind::Srv,
            QTYPE::TYPE(TYPE::PTR) => Kind::Ptr,
            _ => Kind::Other,
        };
        let name = query.qname.to_string().to_lowercase();
        let known = answer::of(&self.directory.table(), DOMAIN, name.trim_end_matches('.'), kind);
        if known == Answer::Elsewhere {
            return match self.forward(question).await {
                Some(answer) => Some(answer),
                None => reply(&asked, RCODE::ServerFailure).build_bytes_vec_compressed().ok(),
            };
        }
        let answer = self.made(&asked, query, known).await;
        let bytes = answer.build_bytes_vec_compressed().ok()?;
        let room = asked.opt().map_or(PLAIN_BYTES, |opt| usize::from(opt.udp_packet_size).max(PLAIN_BYTES));
        if datagram && bytes.len() > room {
            // What does not fit is asked for again, by TCP.
            let mut short = reply(&asked, RCODE::NoError);
            short.set_flags(PacketFlag::TRUNCATION);
            return short.build_bytes_vec_compressed().ok();
        }
        Some(bytes)
    }

    async fn made(&self, asked: &Packet<'_>, query: &Question<'_>, known: Answer) -> Packet<'static> {
        let mut answer = reply(asked, RCODE::NoError);
        answer.set_flags(PacketFlag::AUTHORITATIVE_ANSWER);
        let own = query.qname.clone().into_owned();
        let record = |data| ResourceRecord::new(own.clone(), CLASS::IN, TTL_SECONDS, data);
        match known {
            Answer::Addresses(ips) => answer.answers.extend(ips.into_iter().map(|ip| match ip {
                IpAddr::V4(ip) => record(RData::A(A::from(ip))),
                IpAddr::V6(ip) => record(RData::AAAA(AAAA::from(ip))),
            })),
            Answer::Ports(ports) => {
                let named = ports.into_iter().filter_map(|(port, target)| Some((port, owned(&target)?)));
                answer.answers.extend(
                    named.map(|(port, target)| record(RData::SRV(SRV { priority: 0, weight: 100, port, target }))),
                );
            }
            Answer::Name(name) => answer.answers.extend(owned(&name).map(|name| record(RData::PTR(PTR(name))))),
            Answer::Alias(target) => {
                if let Some(target) = owned(&target) {
                    answer.answers.push(record(RData::CNAME(CNAME(target.clone()))));
                    // A resolver of a C library does not ask on: what the other name stands for comes along.
                    answer.answers.extend(self.ask(target, query.qtype).await);
                }
            }
            Answer::NoSuchName => *answer.rcode_mut() = RCODE::NameError,
            Answer::Nothing | Answer::Elsewhere => {}
        }
        answer
    }

    /// What the machine's servers answer for a name.
    async fn ask(&self, name: Name<'static>, kind: QTYPE) -> Vec<ResourceRecord<'static>> {
        let mut question = Packet::new_query(rand::random());
        question.set_flags(PacketFlag::RECURSION_DESIRED);
        question.questions.push(Question::new(name, kind, QCLASS::CLASS(CLASS::IN), false));
        let Ok(bytes) = question.build_bytes_vec() else { return Vec::new() };
        let Some(answer) = self.forward(&bytes).await else { return Vec::new() };
        let answers = Packet::parse(&answer).map(|answer| answer.answers).unwrap_or_default();
        answers.into_iter().map(ResourceRecord::into_owned).collect()
    }

    /// Asks the machine's servers, one after the other.
    async fn forward(&self, question: &[u8]) -> Option<Vec<u8>> {
        let text = self.files.iter().find_map(|file| std::fs::read_to_string(file).ok()).unwrap_or_default();
        for server in servers(&text).into_iter().filter(|server| *server != self.own).take(SERVERS) {
            if let Ok(Ok(answer)) = tokio::time::timeout(PATIENCE, ask_server((server, 53).into(), question)).await {
                return Some(answer);
            }
        }
        None
    }
}

/// The servers that a `resolv.conf` names.
fn servers(text: &str) -> Vec<IpAddr> {
    let named = text.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
    named.filter_map(|rest| rest.trim().parse().ok()).collect()
}

/// One question to one server, from a port of its own: what answers is whom it was asked of.
async fn ask_server(server: SocketAddr, question: &[u8]) -> io::Result<Vec<u8>> {
    let any: SocketAddr = if server.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0_u16; 8], 0).into() };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    socket.send(question).await?;
    let mut answer = vec![0; MOST_BYTES];
    loop {
        let length = socket.recv(&mut answer).await?;
        // Of another question, perhaps a forger's guess.
        if answer.get(..2) == question.get(..2) {
            answer.truncate(length);
            return Ok(answer);
        }
    }
}

fn reply(asked: &Packet<'_>, code: RCODE) -> Packet<'static> {
    let mut answer = Packet::new_reply(asked.id());
    *answer.opcode_mut() = asked.opcode();
    *answer.rcode_mut() = code;
    answer.set_flags(PacketFlag::RECURSION_AVAILABLE);
    if asked.has_flags(PacketFlag::RECURSION_DESIRED) {
        answer.set_flags(PacketFlag::RECURSION_DESIRED);
    }
    answer.questions = asked.questions.iter().cloned().map(Question::into_owned).collect();
    answer
}

fn owned(name: &str) -> Option<Name<'static>> {
    Name::new(name.trim_end_matches('.')).ok().map(Name::into_owned)
}

/// Questions by TCP: each after its length.
impl Serve for Resolver {
    async fn connection(self: Arc<Self>, mut stream: TcpStream, peer: SocketAddr, ends: Ends) {
        let talk = async {
            loop {
                let length = tokio::time::timeout(IDLE, stream.read_u16()).await.map_err(io::Error::other)??;
                let mut question = vec![0; usize::from(length)];
                tokio::time::timeout(IDLE, stream.read_exact(&mut question)).await.map_err(io::Error::other)??;
                let answer = self.answer_to(peer.ip(), &question, Transport::Tcp).await;
                let Some(answer) = answer else { return Ok::<(), io::Error>(()) };
                let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
                stream.write_all(&[&length.to_be_bytes(), answer.as_slice()].concat()).await?;
            }
        };
        tokio::select! {
            _ = talk => {}
            () = ends.cut() => {}
        }
    }
}

/// A socket for datagrams that other node processes of this machine may have too.
pub(super) fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM.nonblocking().cloexec(), None)?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    UdpSocket::from_std(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolver() -> Arc<Resolver> {
        Arc::new(Resolver {
            directory: Arc::new(Directory::new()),
            files: &[],
            own: [127, 0, 0, 1].into(),
            questions: Semaphore::new(1),
        })
    }

    fn question(name: &str) -> Vec<u8> {
        let mut packet = Packet::new_query(7);
        let name = owned(name).expect("a name");
        packet.questions.push(Question::new(name, QTYPE::TYPE(TYPE::A), QCLASS::CLASS(CLASS::IN), false));
        packet.build_bytes_vec().expect("a message")
    }

    #[tokio::test]
    async fn questions_are_answered_by_datagram() {
        let socket = bind(([127, 0, 0, 1], 0).into()).expect("a port");
        let (address, close) = (socket.local_addr().expect("bound"), CancellationToken::new());
        let serving = tokio::spawn(resolver().serve(socket, close.clone()));
        let answer = ask_server(address, &question("none.shop.svc.cluster.local")).await.expect("an answer");
        let answer = Packet::parse(&answer).expect("a message");
        assert_eq!((answer.id(), answer.rcode()), (7, RCODE::NameError));
        assert!(answer.has_flags(PacketFlag::RESPONSE | PacketFlag::AUTHORITATIVE_ANSWER));
        // Nobody is there to be asked.
        let answer = ask_server(address, &question("example.com")).await.expect("an answer");
        assert_eq!(Packet::parse(&answer).expect("a message").rcode(), RCODE::ServerFailure);
        close.cancel();
        serving.await.expect("it ends");
    }

    #[tokio::test]
    async fn what_is_no_question_has_no_answer() {
        let resolver = resolver();
        assert_eq!(resolver.answer(b"", true).await, None);
        assert_eq!(resolver.answer(&[0xff; 40], true).await, None);
        let echo = question("a.cluster.local");
        let echo = Packet::parse(&echo).expect("a message").into_reply().build_bytes_vec().expect("a message");
        assert_eq!(resolver.answer(&echo, true).await, None, "two servers would never end");
    }

    #[tokio::test]
    async fn an_answer_too_long_for_a_datagram_is_asked_for_by_connection() {
        let asked = question("many.shop.svc.cluster.local");
        let asked = Packet::parse(&asked).expect("a message");
        let many = Answer::Addresses((0..100).map(|last| IpAddr::from([10, 0, 0, last])).collect());
        let made = resolver().made(&asked, &asked.questions[0], many).await;
        let bytes = made.build_bytes_vec_compressed().expect("a message");
        assert_eq!(Packet::parse(&bytes).expect("a message").answers.len(), 100);
        assert!(bytes.len() > PLAIN_BYTES && bytes.len() < 2048, "names are not repeated: {}", bytes.len());
    }

    #[test]
    fn servers_are_read_off_the_machines_file() {
        let text = "# nameserver 192.0.2.9\nnameserver 192.0.2.1\nnameserver ::1\nsearch x\n";
        let found: Vec<String> = servers(text).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["192.0.2.1", "::1"]);
    }
}
