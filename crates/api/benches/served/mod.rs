//! What every measurement serves: the example models, without limits that it would meet.

use api::{ApiConfig, ApiLimits, ConnectionLimits, StreamLimits};
use checkpoint::{Access, OutputRoots};
use webhook::{MasterKey, Reach, WebhookConfig};

pub const RECIPE: &str = "\
merge_method: linear
models: [{model: examples/models/sort, parameters: {weight: 1}}, {model: examples/models/upper, parameters: {weight: 2}}]
";

pub fn config() -> ApiConfig {
    ApiConfig {
        access: Access::Under(vec![testkit::workspace()]),
        private: Vec::new(),
        outputs: OutputRoots::new(vec![std::env::temp_dir()]),
        settings: engine::Settings::default(),
        allowed_hosts: None,
        allowed_origins: Vec::new(),
        streams: StreamLimits::default(),
        connections: ConnectionLimits::default(),
        limits: ApiLimits::default(),
        data_dir: std::env::temp_dir(),
        webhooks: WebhookConfig { reach: Reach::default(), key: MasterKey::generate() },
    }
}
