//! A store on a Redis server, which several pods and other programs may share.
//!
//! A bucket is a hash of the same name; that of the empty name is called [`UNNAMED`]. The server is
//! reached as the pod itself would reach it: by the names it may look up, where the node lets it connect,
//! from its own address. A connection that was closed meanwhile is made anew; a question that was put and
//! not answered is not put again, since the server may have acted on it.

use std::io::{self, BufReader, ErrorKind, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::runtime::Handle;

use super::super::super::Redis;
use super::super::sockets::PodNetwork;
use super::resp::{self, Duplex, Reply, command};
use super::{Backend, Change, Error, MAX_AT_ONCE, PAGE, Result, check, check_key};

const UNNAMED: &str = "default";
/// For a connection, and for each answer.
const TIMEOUT: Duration = Duration::from_secs(5);

pub struct RedisStore {
    server: Redis,
    network: Arc<PodNetwork>,
    /// Connections without a question; at most as many as there are operations at a time.
    idle: Mutex<Vec<Connection>>,
}

type Connection = BufReader<TcpStream>;

impl Duplex for Connection {
    fn writer(&mut self) -> &mut impl Write {
        self.get_mut()
    }
}

impl RedisStore {
    /// Connects to nothing yet: a server may come later than the pods that want it.
    pub fn new(server: Redis, network: Arc<PodNetwork>) -> Self {
        Self { server, network, idle: Mutex::default() }
    }

    fn ask(&self, commands: &[Vec<u8>]) -> Result<Vec<Reply>> {
        let mut connection = match self.take() {
            Some(connection) => connection,
            None => self.connect().map_err(|error| self.failed(&error))?,
        };
        let replies = resp::ask(&mut connection, commands).map_err(|error| self.failed(&error))?;
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < MAX_AT_ONCE {
            idle.push(connection);
        }
        Ok(replies)
    }

    /// The answer to one command.
    fn ask_one(&self, words: &[&[u8]]) -> Result<Reply> {
        let reply = self.ask(&[command(words)])?.pop();
        accepted(reply.unwrap_or(Reply::Nil))
    }

    fn failed(&self, error: &io::Error) -> Error {
        let Redis { host, port, .. } = &self.server;
        Error::Other(match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => {
                format!("redis server {host}:{port}: no answer in {TIMEOUT:?}")
            }
            _ => format!("redis server {host}:{port}: {error}"),
        })
    }

    /// A connection that its server has not closed.
    fn take(&self) -> Option<Connection> {
        loop {
            let connection = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()?;
            let stream = connection.get_ref();
            let open = stream.set_nonblocking(true).is_ok()
                && matches!(stream.peek(&mut [0]), Err(error) if error.kind() == ErrorKind::WouldBlock)
                && stream.set_nonblocking(false).is_ok();
            if open {
                return Some(connection);
            }
        }
    }

    fn connect(&self) -> io::Result<Connection> {
        let addresses = Handle::current().block_on(self.network.addresses(&self.server.host))?;
        let mut failed = io::Error::new(ErrorKind::NotFound, "its name has no address");
        for address in addresses {
            match Handle::current()
                .block_on(self.network.permitted(SocketAddr::new(address, self.server.port)))
                .and_then(|to| self.connect_to(to))
            {
                Ok(connection) => return Ok(connection),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    fn connect_to(&self, to: SocketAddr) -> io::Result<Connection> {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
        if let Some(own) = self.network.source_for(to) {
            socket.bind(&own.into())?;
        }
        socket.connect_timeout(&to.into(), TIMEOUT)?;
        let stream = TcpStream::from(socket);
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        let mut connection = BufReader::new(stream);
        let Redis { username, password, database, .. } = &self.server;
        let mut greeting = Vec::new();
        if let Some(password) = password {
            let mut words: Vec<&[u8]> = vec![b"AUTH"];
            words.extend(username.as_ref().map(String::as_bytes));
            words.push(password.as_bytes());
            greeting.push(command(&words));
        }
        if *database != 0 {
            greeting.push(command(&[b"SELECT", database.to_string().as_bytes()]));
        }
        for reply in resp::ask(&mut connection, &greeting)? {
            if let Reply::Refused(why) = reply {
                return Err(io::Error::new(ErrorKind::PermissionDenied, why));
            }
        }
        Ok(connection)
    }
}

fn accepted(reply: Reply) -> Result<Reply> {
    match reply {
        Reply::Refused(why) => Err(Error::Other(format!("redis: {why}"))),
        other => Ok(other),
    }
}

fn strange() -> Error {
    Error::other("redis: an answer of another kind than was asked for")
}

fn hash(bucket: &str) -> &[u8] {
    if bucket.is_empty() { UNNAMED.as_bytes() } else { bucket.as_bytes() }
}

impl Backend for RedisStore {
    fn waits(&self) -> bool {
        true
    }

    fn read(&self, bucket: &str, keys: &[String]) -> Result<Vec<Option<Vec<u8>>>> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let mut words: Vec<&[u8]> = vec![b"HMGET", hash(bucket)];
        words.extend(keys.iter().map(String::as_bytes));
        let Reply::List(values) = self.ask_one(&words)? else { return Err(strange()) };
        let value = |reply| match reply {
            Reply::Bytes(value) => Ok(Some(value)),
            Reply::Nil => Ok(None),
            _ => Err(strange()),
        };
        values.into_iter().map(value).collect()
    }

    /// One transaction: sets and removals come to be at the same time.
    fn write(&self, bucket: &str, changes: Vec<Change>) -> Result<()> {
        check(&changes)?;
        let changes: Vec<Vec<u8>> = changes
            .iter()
            .map(|(key, value)| match value {
                Some(value) => command(&[b"HSET", hash(bucket), key.as_bytes(), value]),
                None => command(&[b"HDEL", hash(bucket), key.as_bytes()]),
            })
            .collect();
        if changes.is_empty() {
            return Ok(());
        }
        let begin = command(&[b"MULTI"]);
        let commands: Vec<Vec<u8>> = [begin].into_iter().chain(changes).chain([command(&[b"EXEC"])]).collect();
        let replies = self.ask(&commands)?;
        let mut done = Reply::Nil;
        for reply in replies {
            done = accepted(reply)?;
        }
        let Reply::List(done) = done else { return Err(strange()) };
        done.into_iter().try_for_each(|reply| accepted(reply).map(drop))
    }

    fn keys(&self, bucket: &str, skip: usize) -> Result<Vec<String>> {
        let Reply::List(keys) = self.ask_one(&[b"HKEYS", hash(bucket)])? else { return Err(strange()) };
        let mut names = Vec::with_capacity(keys.len());
        for key in keys {
            let Reply::Bytes(key) = key else { return Err(strange()) };
            // Another program's key that is no text cannot be told, nor asked for.
            names.extend(String::from_utf8(key).ok());
        }
        names.sort_unstable();
        Ok(names.into_iter().skip(skip).take(PAGE).collect())
    }

    fn increment(&self, bucket: &str, key: &str, delta: u64) -> Result<u64> {
        check_key(key)?;
        let delta = i64::try_from(delta).map_err(|_| Error::other("the number would be too large"))?;
        match self.ask_one(&[b"HINCRBY", hash(bucket), key.as_bytes(), delta.to_string().as_bytes()])? {
            Reply::Number(number) => u64::try_from(number).map_err(|_| Error::other("the value is below zero")),
            _ => Err(strange()),
        }
    }
}

#[cfg(test)]
pub mod tests {
    use std::process::{Child, Command, Stdio};

    /// A real server, on a port that was free a moment ago.
    pub struct Server {
        process: Child,
        pub port: u16,
        _dir: tempfile::TempDir,
    }

    impl Server {
        /// `None`: this machine has none.
        pub fn start() -> Option<Self> {
            let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
            let port = free.local_addr().expect("an address").port();
            drop(free);
            let dir = tempfile::tempdir().expect("a directory");
            let port_text = port.to_string();
            let args = ["--port", &port_text, "--bind", "127.0.0.1", "--save", "", "--requirepass", "sesame", "--dir"];
            let started = Command::new("redis-server").args(args).arg(dir.path()).stdout(Stdio::null()).spawn();
            let Ok(process) = started else {
                let required = std::env::var_os("CORACLE_REQUIRE_TOOLS").is_some();
                assert!(!required, "this test needs redis-server, which is not installed");
                eprintln!("SKIPPED: this test needs redis-server, which is not installed");
                return None;
            };
            Some(Self { process, port, _dir: dir })
        }
    }

    impl Drop for Server {
        fn drop(&mut self) {
            let _ = self.process.kill();
            let _ = self.process.wait();
        }
    }
}
