//! What TensorBoard's tab HPARAMS shows: the settings of a run beside its results.
//!
//! The plugin reads no values but metadata of three values: which settings and results there are (`experiment`), the settings
//! of this run (`session_start_info`), and that it is complete (`session_end_info`). The results are scalars of the runs in
//! subfolders ([`Metric::run`]), the last of each.
//!
//! | message | fields |
//! |---|---|
//! | `Summary.Value` | 1 `tag`, 8 `tensor`, 9 `metadata` |
//! | `SummaryMetadata` | 1 `plugin_data`: 1 `plugin_name` = "hparams", 2 `content`: `HParamsPluginData` |
//! | `HParamsPluginData` | one of: 2 `experiment`, 3 `session_start_info`, 4 `session_end_info` |
//! | `Experiment` | 3 `time_created_secs`, 4 `hparam_infos`, repeated: 1 `name`, 4 `type`; 5 `metric_infos`, repeated |
//! | `MetricInfo` | 1 `name`: 1 `group`, the run, 2 `tag`; 3 `display_name` |
//! | `SessionStartInfo` | 1 `hparams`, a map: 1 key, 2 `Value`; 5 `start_time_secs` |
//! | `Value` | one of: 2 double, 3 string, 4 bool |
//! | `SessionEndInfo` | 1 `status` enum, `SUCCESS` = 1; 2 `end_time_secs` |

use super::{Message, event, record};

/// The value of a setting.
#[derive(Clone, Debug, PartialEq)]
pub enum Setting {
    /// Yes or no.
    Bool(bool),
    /// A number.
    Number(f64),
    /// Anything else.
    Text(String),
}

/// A result that is shown beside the settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric<'a> {
    /// The subfolder with its values.
    pub run: &'a str,
    /// The name of the scalar there.
    pub tag: &'a str,
    /// The title of its column.
    pub title: &'a str,
}

/// The settings of a run, in the order of their columns, and which results to show.
pub fn begin(wall_time: f64, settings: &[(String, Setting)], metrics: &[Metric]) -> Vec<u8> {
    let mut experiment = Message::default().double(3, wall_time);
    for (name, setting) in settings {
        let kind = match setting {
            Setting::Text(_) => 1,
            Setting::Bool(_) => 2,
            Setting::Number(_) => 3,
        };
        experiment = experiment.message(4, &Message::default().text(1, name).varint(4, kind));
    }
    for Metric { run, tag, title } in metrics {
        let name = Message::default().text(1, run).text(2, tag);
        experiment = experiment.message(5, &Message::default().message(1, &name).text(3, title));
    }
    let mut session = Message::default();
    for (name, setting) in settings {
        let value = match setting {
            Setting::Number(number) => Message::default().double(2, *number),
            Setting::Text(text) => Message::default().text(3, text),
            Setting::Bool(yes) => Message::default().varint(4, u64::from(*yes)),
        };
        session = session.message(1, &Message::default().text(1, name).message(2, &value));
    }
    let session = session.double(5, wall_time);
    let experiment = value("_hparams_/experiment", 2, &experiment);
    let session = value("_hparams_/session_start_info", 3, &session);
    record(&event(wall_time, 0).message(5, &Message::default().message(1, &experiment).message(1, &session)))
}

/// The run is complete.
pub fn end(wall_time: f64) -> Vec<u8> {
    const SUCCESS: u64 = 1;
    let session = Message::default().varint(1, SUCCESS).double(2, wall_time);
    let value = value("_hparams_/session_end_info", 4, &session);
    record(&event(wall_time, 0).message(5, &Message::default().message(1, &value)))
}

/// A value without numbers, whose metadata contains `content` as the field `number` of the plugin's data.
fn value(tag: &str, number: u64, content: &Message) -> Message {
    // An array of type float (1) and shape (0).
    let no_dim = Message::default().message(2, &Message::default());
    let tensor = Message::default().varint(1, 1).message(2, &no_dim);
    let data = Message::default().message(number, content);
    let plugin = Message::default().text(1, "hparams").message(2, &data);
    let metadata = Message::default().message(1, &plugin);
    Message::default().text(1, tag).message(8, &tensor).message(9, &metadata)
}
