//! A program that pretends to be an old Redis, because there is no package of one to install.

use std::io;

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

pub struct PretendedRedis {
    port: u16,
    accepting: JoinHandle<()>,
}

impl PretendedRedis {
    /// Starts a master of this version; `None`: so old that it does not know HELLO. It answers OK to everything else.
    pub async fn start(version: Option<&'static str>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream, version));
            }
        });
        Self { port, accepting }
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }
}

impl Drop for PretendedRedis {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Answers commands until the client leaves.
async fn answer(stream: TcpStream, version: Option<&str>) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let reply = match (read_command(&mut stream).await?.as_str(), version) {
            ("HELLO", Some(version)) => {
                let length = version.len();
                format!(
                    "%3\r\n$6\r\nserver\r\n$5\r\nredis\r\n$7\r\nversion\r\n${length}\r\n{version}\r\n$4\r\nrole\r\n$6\r\nmaster\r\n"
                )
            }
            ("HELLO", None) => "-ERR unknown command `HELLO`, with args beginning with: \r\n".to_owned(),
            ("ROLE", _) => "*3\r\n$6\r\nmaster\r\n:0\r\n*0\r\n".to_owned(),
            _ => "+OK\r\n".to_owned(),
        };
        stream.write_all(reply.as_bytes()).await?;
    }
}

/// Returns the name of the next command.
async fn read_command(stream: &mut BufReader<TcpStream>) -> io::Result<String> {
    let mut name = None;
    for _ in 0..read_length(stream).await? {
        let mut argument = vec![0; read_length(stream).await? + "\r\n".len()];
        stream.read_exact(&mut argument).await?;
        name.get_or_insert_with(|| String::from_utf8_lossy(&argument).trim_end().to_uppercase());
    }
    name.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

/// Reads a line such as `*3` or `$5`.
async fn read_length(stream: &mut BufReader<TcpStream>) -> io::Result<usize> {
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    line.get(1..).and_then(|length| length.trim_end().parse().ok()).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}
