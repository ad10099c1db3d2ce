//! How many connections there are at once, and from one network: one more is closed before its handshake.

use std::{
    future::{Ready, ready},
    io,
    sync::Arc,
    task::{Context, Poll},
};

use axum_server::accept::Accept;
use jit_proto::SourcePrefix;
use tokio::net::TcpStream;
use tower::Service;

use crate::sites::{Full, Place, Sites};

/// Places for connections.
#[derive(Clone)]
pub(super) struct Places {
    sites: Arc<Sites>,
    /// Whoever comes by one of these is none of its network.
    proxies: Arc<[SourcePrefix]>,
}

impl Places {
    pub(super) fn new(most: usize, proxies: Vec<SourcePrefix>) -> Self {
        Self { sites: Sites::new(most), proxies: proxies.into() }
    }

    fn take(&self, stream: &TcpStream) -> io::Result<Place> {
        let from = stream.peer_addr()?.ip().to_canonical();
        let address = SourcePrefix::from(from);
        let place = match self.proxies.iter().any(|proxies| proxies.contains(&address)) {
            true => self.sites.take_shared(),
            false => self.sites.take(from),
        };
        place.map_err(|full| {
            io::Error::other(match full {
                Full::All => "too many connections",
                Full::Site => "too many connections of this network",
            })
        })
    }
}

impl<S> Accept<TcpStream, S> for Places {
    type Stream = TcpStream;
    type Service = Placed<S>;
    type Future = Ready<io::Result<(TcpStream, Placed<S>)>>;

    fn accept(&self, stream: TcpStream, service: S) -> Self::Future {
        let place = match self.take(&stream) {
            Ok(place) => place,
            Err(error) => return ready(Err(error)),
        };
        // Answers are small: they do not wait for more.
        let set = stream.set_nodelay(true);
        ready(set.map(|()| (stream, Placed { service, _place: Arc::new(place) })))
    }
}

/// What answers on one connection; its place is free when the connection has ended.
#[derive(Clone)]
pub(super) struct Placed<S> {
    service: S,
    _place: Arc<Place>,
}

impl<S: Service<R>, R> Service<R> for Placed<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.service.poll_ready(context)
    }

    fn call(&mut self, request: R) -> S::Future {
        self.service.call(request)
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpSocket};

    use super::*;

    #[tokio::test]
    async fn connections_of_one_network_leave_places_for_others_and_proxies_have_no_network() {
        let places = Places::new(8, vec!["127.0.3.1".parse().unwrap()]);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = listener.local_addr().unwrap();
        let comes = async |from: [u8; 4]| {
            let socket = TcpSocket::new_v4().unwrap();
            socket.bind((from, 0).into()).unwrap();
            let (client, accepted) = tokio::join!(socket.connect(to), listener.accept());
            let placed = places.accept(accepted.unwrap().0, ()).await;
            placed.map(|placed| (client.unwrap(), placed)).map_err(|error| error.to_string())
        };
        let mut held = Vec::new();
        for last in 1..=4 {
            held.push(comes([127, 0, 1, last]).await.unwrap());
        }
        let refused = comes([127, 0, 1, 9]).await.err().unwrap();
        assert!(refused.contains("of this network"), "{refused}");
        held.push(comes([127, 0, 2, 1]).await.unwrap());
        for _ in 0..3 {
            held.push(comes([127, 0, 3, 1]).await.unwrap());
        }
        assert_eq!(comes([127, 0, 3, 1]).await.err().unwrap(), "too many connections");
        held.truncate(3);
        held.push(comes([127, 0, 1, 9]).await.unwrap());
    }
}
