//! What the output is made of: points and bytes by metric, most bytes first, on standard error.

use ollystack_record::Sample;
use ollystack_record::otlp::metrics::v1::{ResourceMetrics, metric::Data};
use prost::Message;
use std::collections::HashMap;

const SHOWN: usize = 60;

#[derive(Default)]
pub(crate) struct Top {
    metrics: HashMap<String, Metric>,
    resources: u64,
    resource_bytes: u64,
}

#[derive(Default)]
struct Metric {
    samples: u64,
    points: u64,
    /// Uncompressed, of their points alone, and with the description that goes with each group of points.
    bytes: [u64; 2],
}

impl Top {
    pub(crate) fn saw(&mut self, samples: &[Sample]) {
        for sample in samples {
            self.of(&sample.series.metric.name).samples += 1;
        }
    }

    pub(crate) fn sent(&mut self, resource: &ResourceMetrics) {
        self.resources += 1;
        self.resource_bytes += resource.resource.as_ref().map_or(0, Message::encoded_len) as u64;
        for metric in resource.scope_metrics.iter().flat_map(|scope| &scope.metrics) {
            let sizes: Vec<usize> = match &metric.data {
                Some(Data::Gauge(data)) => data.data_points.iter().map(Message::encoded_len).collect(),
                Some(Data::Sum(data)) => data.data_points.iter().map(Message::encoded_len).collect(),
                Some(Data::Histogram(data)) => data.data_points.iter().map(Message::encoded_len).collect(),
                Some(Data::ExponentialHistogram(data)) => data.data_points.iter().map(Message::encoded_len).collect(),
                Some(Data::Summary(data)) => data.data_points.iter().map(Message::encoded_len).collect(),
                None => Vec::new(),
            };
            let whole = metric.encoded_len() as u64;
            let of = self.of(&metric.name);
            of.points += sizes.len() as u64;
            of.bytes[0] += sizes.iter().sum::<usize>() as u64;
            of.bytes[1] += whole;
        }
    }

    pub(crate) fn print(&self) {
        let mut metrics: Vec<_> = self.metrics.iter().collect();
        metrics.sort_by_key(|(name, metric)| (std::cmp::Reverse(metric.bytes[1]), *name));
        eprintln!("{:>9} {:>7} {:>7} {:>9} {:>9}  metric", "samples", "points", "ratio", "of points", "bytes");
        for (name, metric) in metrics.iter().take(SHOWN) {
            let ratio = metric.samples as f64 / metric.points as f64;
            let [points, whole] = metric.bytes;
            eprintln!("{:>9} {:>7} {ratio:>7.1} {points:>9} {whole:>9}  {name}", metric.samples, metric.points);
        }
        eprintln!("resources: {} times, {} bytes", self.resources, self.resource_bytes);
    }

    fn of(&mut self, name: &str) -> &mut Metric {
        if !self.metrics.contains_key(name) {
            self.metrics.insert(name.to_owned(), Metric::default());
        }
        self.metrics.get_mut(name).unwrap()
    }
}
