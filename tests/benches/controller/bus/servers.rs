//! The servers of the bus, inside a namespace: a thread there has them, and they end with it.

use std::{
    sync::mpsc::{Sender, channel},
    thread::JoinHandle,
};

use jit_tests::netns::Namespace;

use super::cluster::{Cluster, Who};

/// Number of servers.
pub(super) const COUNT: usize = 3;

/// Three servers.
pub(super) struct Servers {
    /// `[bus]` of the controller, and of a hub.
    sections: [String; 2],
    orders: Option<Sender<Order>>,
    thread: Option<JoinHandle<()>>,
}

/// What is done with a server, and who waits for that.
enum Order {
    Kill(usize, Sender<()>),
    Restart(usize, Sender<()>),
}

impl Servers {
    /// Starts them, and waits until they let the controller in.
    pub(super) fn start(namespace: &Namespace) -> Self {
        let (orders, ordered) = channel();
        let (started, sections) = channel();
        let thread = namespace.spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let mut cluster = runtime.unwrap().block_on(async {
                let (cluster, bus) = Cluster::start().await;
                bus.close().await.unwrap();
                cluster
            });
            started.send([Who::Controller, Who::Hub].map(|who| section(&cluster, who))).unwrap();
            for order in ordered {
                let done = match order {
                    Order::Kill(number, done) => {
                        cluster.kill(number);
                        done
                    }
                    Order::Restart(number, done) => {
                        cluster.restart(number);
                        done
                    }
                };
                done.send(()).unwrap();
            }
        });
        let sections = sections.recv().expect("the servers have not started");
        Self { sections, orders: Some(orders), thread: Some(thread) }
    }

    /// `[bus]` of a configuration.
    pub(super) fn section(&self, who: Who) -> String {
        let [controller, hub] = &self.sections;
        match who {
            Who::Controller => controller.clone(),
            Who::Hub => hub.clone(),
        }
    }

    /// Kills a server.
    pub(super) fn kill(&self, number: usize) {
        self.order(|done| Order::Kill(number, done));
    }

    /// Starts one that was killed.
    pub(super) fn restart(&self, number: usize) {
        self.order(|done| Order::Restart(number, done));
    }

    fn order(&self, order: impl FnOnce(Sender<()>) -> Order) {
        let (done, is_done) = channel();
        self.orders.as_ref().unwrap().send(order(done)).unwrap();
        is_done.recv().unwrap();
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

fn section(cluster: &Cluster, who: Who) -> String {
    let servers: Vec<_> = (0..COUNT).map(|number| cluster.url(number)).collect();
    let seed = match who {
        Who::Controller => "controller.nk",
        Who::Hub => "hub.nk",
    };
    let file = |name| cluster.file(name).display().to_string();
    format!(
        "\n[bus]\nservers = {servers:?}\nnkey = {:?}\nca = {:?}\ncertificate = {:?}\nkey = {:?}\n",
        file(seed),
        file("ca.pem"),
        file("client.pem"),
        file("client.key")
    )
}
