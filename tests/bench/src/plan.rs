//! What `auto_explain` says of a statement.

use std::fmt;

use serde_json::Value;

/// A statement that ran.
#[derive(Clone)]
pub struct Explained {
    /// Execution, with the instrumentation that explains it.
    pub ms: f64,
    /// Pages of 8 KiB that were read, from memory or from disk; those of foreign-key checks are not among them.
    pub buffers: u64,
}

impl fmt::Display for Explained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2} | {}", self.ms, self.buffers)
    }
}

/// From a notice; `None` if it is another one, or if nothing was read: so the server checks a connection that was idle.
pub fn explained(notice: &str) -> Option<Explained> {
    let (ms, plan) = notice.strip_prefix("duration: ")?.split_once(" ms  plan:\n")?;
    let plan: Value = serde_json::from_str(plan).ok()?;
    let mut nodes = Vec::new();
    collect(&plan["Plan"], &mut nodes);
    let scanned: Vec<&str> = nodes.iter().filter_map(|node| node["CTE Name"].as_str()).collect();
    // A data-modifying `with` that nobody reads runs after the root, which then does not count its pages.
    let is_unread = |node: &&&Value| {
        let name = node["Subplan Name"].as_str().and_then(|name| name.strip_prefix("CTE "));
        name.is_some_and(|name| !scanned.contains(&name))
    };
    let unread: u64 = nodes.iter().filter(is_unread).map(|node| pages(node)).sum();
    let buffers = pages(&plan["Plan"]) + unread;
    (buffers > 0).then_some(Explained { ms: ms.parse().ok()?, buffers })
}

fn collect<'a>(node: &'a Value, nodes: &mut Vec<&'a Value>) {
    nodes.push(node);
    node["Plans"].as_array().into_iter().flatten().for_each(|inner| collect(inner, nodes));
}

fn pages(node: &Value) -> u64 {
    let count = |name: &str| node[name].as_u64().unwrap_or(0);
    count("Shared Hit Blocks") + count("Shared Read Blocks")
}
