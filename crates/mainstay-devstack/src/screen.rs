//! The short screen that a person sees when the stack is up.

use std::fmt::Write as _;

use mainstay_devstack::{Endpoints, Service};

/// What the screen tells beside the addresses.
pub(crate) struct Screen<'a> {
    pub(crate) endpoints: &'a Endpoints,
    /// A token to try, of the viewer role.
    pub(crate) token: &'a str,
    /// Where spans go; none when they are not sent.
    pub(crate) otlp_endpoint: Option<&'a str>,
    /// The demo tables are there.
    pub(crate) demo_data: bool,
}

impl Screen<'_> {
    /// Renders the screen; every line of it can be pasted.
    pub(crate) fn render(&self) -> String {
        let mut text = String::from("\nMainstay is up. Ctrl-C stops all of it.\n\nWhat runs where\n");
        for (name, place) in self.places() {
            line(&mut text, name, &place);
        }
        text.push_str("\nTo get in\n");
        line(&mut text, "API key", &format!("{}  (admin)", self.endpoints.credentials.api_keys.admin));
        line(&mut text, "token", &format!("{}  (viewer, 12 h)", self.token));
        if let Some(edge) = self.outer(Service::EdgeGateway) {
            text.push_str("\nTo try\n");
            for command in self.commands(&edge) {
                let _ = writeln!(text, "  {command}");
            }
            text.push_str("\nTo look at\n");
            line(&mut text, "status page", &format!("{edge}/dashboard"));
            line(&mut text, "all paths", &format!("{edge}/docs"));
            line(&mut text, "health", &format!("{edge}/health/status"));
            line(&mut text, "metrics", &format!("{edge}/health/metrics"));
        }
        let traces = self.otlp_endpoint.map_or_else(
            || "not sent; `scripts/up --traces http://127.0.0.1:4317` sends them to Jaeger".to_owned(),
            |url| format!("sent to {url}"),
        );
        line(&mut text, "traces", &traces);
        line(&mut text, "logs", &self.endpoints.dir.join("logs").display().to_string());
        text
    }

    fn outer(&self, service: Service) -> Option<String> {
        let address = self.endpoints.services.get(service.name())?.outer?;
        Some(format!("http://{address}"))
    }

    fn places(&self) -> Vec<(&'static str, String)> {
        let mut places = Vec::new();
        for service in Service::ALL {
            let Some(address) = self.endpoints.services.get(service.name()) else { continue };
            let outer = match (service, address.outer) {
                (Service::EdgeGateway, Some(outer)) => format!("REST http://{outer}, "),
                (Service::WsGateway, Some(outer)) => format!("ws://{outer}/connection/websocket, "),
                _ => String::new(),
            };
            places.push((service.name(), format!("{outer}gRPC {}", address.internal)));
        }
        if let Some(redis) = &self.endpoints.redis {
            let sentinels: Vec<_> = redis.sentinels.iter().map(ToString::to_string).collect();
            let place = format!(
                "primary {}, replica {}, sentinels {}",
                redis.primary,
                redis.replica,
                sentinels.join(" ")
            );
            places.push(("Redis", place));
        }
        if let Some(postgres) = &self.endpoints.postgres {
            let nodes: Vec<_> =
                postgres.nodes.iter().map(|node| format!("{} {}", node.name, node.address)).collect();
            places.push(("PostgreSQL", format!("{} (database {})", nodes.join(", "), postgres.database)));
            let bouncers: Vec<_> = postgres
                .nodes
                .iter()
                .filter_map(|node| Some(format!("{} {}", node.name, node.pgbouncer?)))
                .collect();
            if !bouncers.is_empty() {
                places.push(("PgBouncer", bouncers.join(", ")));
            }
        }
        places
    }

    fn commands(&self, edge: &str) -> Vec<String> {
        let key = format!("-H 'x-api-key: {}'", self.endpoints.credentials.api_keys.admin);
        let json = "-H 'content-type: application/json'";
        let mut commands = vec![
            format!("curl {key} -H 'content-type: text/plain' -X PUT -d 'hello' {edge}/cache/demo/greeting"),
            format!("curl {key} -i {edge}/cache/demo/greeting"),
            format!(
                "curl {key} {json} -d '{{\"channel\":\"news\",\"data\":{{\"hello\":\"world\"}}}}' {edge}/realtime/publish"
            ),
        ];
        if self.endpoints.postgres.is_some() {
            let sql = if self.demo_data {
                "select category, count(*), sum(amount) from revenue_transactions group by 1 order by 1"
            } else {
                "select version(), pg_is_in_recovery()"
            };
            commands.push(format!("curl {key} {json} -d '{{\"sql\":\"{sql}\"}}' {edge}/database/query"));
        } else {
            commands.push(format!("curl {key} {edge}/monitoring/unified/metrics"));
        }
        commands
    }
}

fn line(text: &mut String, name: &str, value: &str) {
    let _ = writeln!(text, "  {name:<16} {value}");
}
