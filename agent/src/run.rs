//! The life of the agent on one page: every stage is started from the end of the datum's way to its beginning, and
//! stopped in the opposite order.
//!
//! ```text
//! inputs ── intake ── pipeline (enrich, process) ── freeze ── buffer ── send
//! ```
//! Invariant: a stage is told to stop only after all before it have handed on what they had, so that a clean stop leaves
//! every accepted record delivered or on disk, within `limits.shutdown_deadline_ms`.

use crate::books::{self, Books};
use crate::config::{Config, Loaded, Unfit};
use crate::guard::{self, Guard};
use crate::observe::{Identity, Observatory, Parts};
use crate::pipeline::{self, Pipeline, Pulse};
use crate::stage::{Stages, within};
use crate::state::{self, State, StateError};
use crate::supervise::{Board, Supervisor};
use crate::{admin, budget, checkpoint, farewell, inputs, log, runtime, signals, telemetry};
use ollystack_buffer::{Buffer, Options};
use ollystack_enrich::Enricher;
use ollystack_export as export;
use ollystack_process::Process;
use ollystack_record::{Intake, Ledger};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Reduced batches on their way to the freezer, which takes them at once: a few are enough.
const REDUCED_MAX: usize = 16;

/// Why the agent does not run, or runs no more.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunError {
    #[error(transparent)]
    Unfit(#[from] Unfit),
    #[error(transparent)]
    Overdrawn(#[from] budget::Overdrawn),
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Export(#[from] export::Error),
    #[error("the system refuses what the agent needs to start: {0}")]
    System(#[from] std::io::Error),
    #[error("{0} ended by itself, see the log; what is on disk is kept, start the agent again")]
    Ended(&'static str),
}

/// A running agent.
struct Agent {
    supervisor: Supervisor,
    stages: Stages,
    buffer: Buffer,
    ledger: Arc<Ledger>,
    books: Arc<Books>,
    sending: Arc<export::Status>,
    _guard: Guard,
    stop_inputs: CancellationToken,
    stop_pipeline: CancellationToken,
    stop_sending: CancellationToken,
    deadline: Duration,
    _state: State,
}

/// Run until told to stop. The log is on stderr; stdout stays empty.
pub(crate) fn run(loaded: Loaded) -> Result<(), RunError> {
    runtime::tune_allocator();
    log::start(&loaded.config.log);
    for warning in loaded.warnings.iter().chain(&loaded.config.warnings(loaded.file.as_deref())) {
        tracing::warn!("{warning}");
    }
    if let Some(fault) = loaded.config.faults().into_iter().next() {
        return Err(fault.into());
    }
    runtime::shield_memory();
    runtime::build()?.block_on(async {
        let mut signals = signals::listen()?;
        let mut agent = Agent::start(loaded.config).await?;
        let (signal, ended) = tokio::select! {
            signal = signals.next() => (Some(signal), None),
            stage = agent.stages.first_to_end() => (None, Some(stage)),
        };
        if let Some(signal) = signal {
            tracing::info!(signal, "stopping; Ctrl-C twice ends at once");
        }
        signals.exit_on_second_interrupt(signal);
        agent.stop().await;
        ended.map_or(Ok(()), |stage| Err(RunError::Ended(stage)))
    })
}

impl Agent {
    async fn start(config: Config) -> Result<Agent, RunError> {
        // What must be right before anything starts.
        let (endpoint, key) = config.require()?;
        let deadline = Duration::from_millis(config.limits.shutdown_deadline_ms);
        let budget = budget::check(&config)?;
        let state = state::open(&state::locate(&config)?)?;
        let (ledger, figures) = (Arc::new(Ledger::default()), Arc::new(inputs::Figures::default()));
        if let Some(advice) = budget.beyond(guard::grant(&config.limits)) {
            tracing::warn!("{advice}");
        }
        let guard = Guard::start(&config.limits, Arc::clone(&figures))?;
        let options = Options {
            bytes_max: config.buffer.bytes_max,
            segment_bytes_max: config.buffer.segment_bytes_max,
            ..Options::new(state.dir.join("buffer"))
        };
        let last_run = books::open(&state.dir);
        let (buffer, damaged) = export::open_buffer(options, &ledger)?;
        inputs::recover(&state.dir, &buffer.last_ids());
        let on_disk = ledger.read().signals.map(|account| account.carried);
        let enricher = Enricher::new(&config.enrich);
        let host = enricher.host_resource();
        let own = telemetry::resource(&host, &state.agent_id.to_string());
        let mut process = Process::new(config.process().keyed(key.expose()), Arc::clone(&own), Arc::clone(&ledger));
        let (every_ms, bytes_max) = (config.metrics.checkpoint_ms, config.limits.memory_bytes_max);
        let keeper =
            checkpoint::open(&state.dir, every_ms, bytes_max, &mut process, &ledger, last_run.lost(), pipeline::now());
        let books = Arc::new(last_run.settle(&ledger, on_disk, damaged, keeper.risk(0)));
        tokio::spawn(Arc::clone(&books).keep());

        // From the end of the way to its beginning: whoever starts finds the next stage there.
        let [stop_inputs, stop_pipeline, stop_sending] = [(); 3].map(|()| CancellationToken::new());
        let mut stages = Stages::default();
        let sending = Arc::new(export::Status::default());
        stages.spawn("sending", {
            let (agent, ledger, status) = (state.agent_id.to_string(), Arc::clone(&ledger), Arc::clone(&sending));
            let key = export::ApiKey::new(key.expose());
            export::send(config.sending(), key, agent, buffer.clone(), ledger, stop_sending.clone(), status)
        });
        stages.spawn("thinning", {
            let thin = export::thin(config.sending(), buffer.clone(), Arc::clone(&ledger));
            let stop = stop_sending.clone();
            async move {
                stop.run_until_cancelled(thin).await;
                Ok::<(), export::Error>(())
            }
        });
        let (reduced, to_freeze) = mpsc::channel(REDUCED_MAX);
        stages.spawn("freezing", {
            let freeze = export::freeze(config.sending(), to_freeze, buffer.clone(), Arc::clone(&ledger));
            async {
                freeze.await;
                Ok::<(), export::Error>(())
            }
        });
        let limits = &config.limits;
        let (intake, received) = Intake::new(limits.queue_batches_max, limits.queue_records_max, Arc::clone(&ledger));
        let intake = intake.under(Arc::clone(&guard.pressure));
        let pulse = Arc::new(Pulse::default());
        stages.spawn("processing", {
            let pipeline =
                Pipeline::new(enricher, process, keeper, Arc::clone(&books), Arc::clone(&ledger), Arc::clone(&pulse));
            let pipeline = pipeline.under(Arc::clone(&guard.pressure)).knowing(Arc::clone(&figures.lines));
            let pipeline = pipeline.asked_by(Arc::clone(&sending));
            pipeline.run(received, reduced, stop_pipeline.clone())
        });
        let board = Arc::new(Board::default());
        let mut supervisor = Supervisor::new(Arc::clone(&board), stop_inputs.clone());
        inputs::start(&mut supervisor, &config, &state.dir, &host, &intake, &stop_inputs, &figures);

        // Beside the way: what the agent says about itself.
        let identity = Identity::new(&config, &state, &host, &budget);
        let (buffer_seen, guarded) = (buffer.clone(), Arc::clone(&guard.figures));
        let parts = Parts {
            ledger: Arc::clone(&ledger),
            books: Arc::clone(&books),
            buffer: buffer_seen,
            sending: Arc::clone(&sending),
            pulse,
            board,
            figures,
            guard: guarded,
        };
        let observatory = Arc::new(Observatory::new(identity, parts));
        telemetry::start(&mut supervisor, &config, &own, &observatory, &intake, &stop_inputs);
        admin::start(&config.admin.listen, observatory.clone(), &stop_sending).await;
        let dir = state.dir.display().to_string();
        tracing::info!(version = env!("CARGO_PKG_VERSION"), agent = %state.agent_id, endpoint, state_dir = dir, "the agent runs");
        Ok(Agent {
            supervisor,
            stages,
            buffer,
            ledger,
            books,
            sending,
            _guard: guard,
            stop_inputs,
            stop_pipeline,
            stop_sending,
            deadline,
            _state: state,
        })
    }

    /// What reaches the disk is safe, so the stages before it have most of the time, and sending what is left.
    async fn stop(mut self) {
        let begin = Instant::now();
        let by = |tenths: u32| begin + self.deadline / 10 * tenths;
        let after_inputs = self.supervisor.after();
        self.stop_inputs.cancel();
        within(by(6), "the inputs", self.supervisor.join()).await;
        self.stop_pipeline.cancel();
        within(by(8), "processing", self.stages.end("processing")).await;
        within(by(9), "freezing", self.stages.end("freezing")).await;
        // Every verdict is in by now: what was read is committed, and not read again. A disk that does not answer is not waited for.
        within(by(10), "the inputs' commits", after_inputs.finish(by(9))).await;
        self.stop_sending.cancel();
        within(by(10), "sending", self.stages.end("sending")).await;
        within(by(10), "thinning", self.stages.end("thinning")).await;
        within(by(11), "the disk buffer", self.buffer.close()).await;
        export::measure(&self.buffer, &self.ledger);
        farewell::say(&self.ledger, &self.sending.read(), begin.elapsed());
        self.books.close().await;
    }
}
