//! Opens connections to PostgreSQL.

use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_postgres::{Client, Config, Connection, Socket};

use super::tls::{Stream, Tls};

/// Opens connections to the database.
pub struct Connector {
    pub config: Config,
    pub tls: Tls,
    /// The runtime that opened the store and drives its connections.
    pub runtime: Handle,
}

impl Connector {
    pub async fn open(&self) -> Result<(Client, Connection<Socket, Stream>), tokio_postgres::Error> {
        self.config.connect(self.tls.clone()).await
    }
}

/// Opens the connections of the pool, on the runtime that opened the store.
pub struct PoolConnector(pub Arc<Connector>);

impl deadpool_postgres::Connect for PoolConnector {
    fn connect(&self, _: &Config) -> ConnectFuture<'_> {
        let connector = Arc::clone(&self.0);
        Box::pin(async move {
            let opener = Arc::clone(&connector);
            let opened = connector.runtime.spawn(async move {
                let (client, connection) = opener.open().await?;
                // Users of the client notice when the driver ends.
                let driver = tokio::spawn(async move { drop(connection.await) });
                client.batch_execute(SETTINGS).await?;
                Ok((client, driver))
            });
            match opened.await {
                Ok(opened) => opened,
                // The runtime is shutting down. The pool's timeout ends the wait.
                Err(_) => std::future::pending().await,
            }
        })
    }
}

type ConnectFuture<'a> = std::pin::Pin<
    Box<dyn Future<Output = Result<(Client, JoinHandle<()>), tokio_postgres::Error>> + Send + 'a>,
>;

/// The settings of each connection. A statement takes milliseconds; one that takes longer waits for a lock. An idle
/// transaction holds the lock that administration waits for.
const SETTINGS: &str = "SET statement_timeout = '5s'; SET lock_timeout = '4s'; \
                        SET idle_in_transaction_session_timeout = '10s'; SET synchronous_commit = on";
