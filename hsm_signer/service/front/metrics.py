"""The metrics of one front, in a registry of its own (Prometheus text format)."""

from __future__ import annotations

from collections import Counter as Count
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from hsm_signer.errors import SignerError
from hsm_signer.service.wire.operations import Operation, Reply, Sign
from hsm_signer.types import ACCEPTED

from .pool import Pool

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
STEP_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
STATES = ("starting", "ready", "recovering", "draining")


class Metrics:
    """Counters and histograms of one front."""

    def __init__(self, pool: Pool) -> None:
        # One more series for each would say when this process began.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self._signatures = Counter(
            "hsm_signer_signatures",
            "Authorisations sent to workers, by what came of them.",
            ["outcome"],
            registry=self.registry,
        )
        self._requests = Counter(
            "hsm_signer_requests",
            "Answers, by route and status.",
            ["endpoint", "status"],
            registry=self.registry,
        )
        self._request_seconds = Histogram(
            "hsm_signer_request_seconds",
            "From a request's head to the end of its answer.",
            ["endpoint"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self._step_seconds = Histogram(
            "hsm_signer_step_seconds",
            "Steps of docs/understand/protocol.md, section 5, in the workers.",
            ["step"],
            buckets=STEP_SECONDS,
            registry=self.registry,
        )
        self._token_errors = Counter(
            "hsm_signer_token_errors", "Errors of the token, by code.", ["code"], registry=self.registry
        )
        self._rate_limited = Counter(
            "hsm_signer_rate_limited",
            "Requests refused for their client's rate, or for its rate about one credential.",
            registry=self.registry,
        )
        self._connections_refused = Counter(
            "hsm_signer_connections_refused",
            "Connections closed because there were too many: of all, of their address, or of strangers.",
            ["of"],
            registry=self.registry,
        )
        self.registry.register(_PoolCollector(pool))

    def answered(self, operation: Operation, reply: Reply) -> None:
        """Count a call that a worker carried out."""
        if isinstance(operation, Sign):
            self._signatures.labels(ACCEPTED).inc()
            for step, microseconds in reply.steps:
                self._step_seconds.labels(str(step)).observe(microseconds / 1e6)

    def failed(self, operation: Operation, error: SignerError) -> None:
        """Count a call that a worker refused or did not reach."""
        if isinstance(operation, Sign):
            self._signatures.labels(error.code).inc()
        if error.code.startswith("token."):
            self._token_errors.labels(error.code).inc()

    def request(self, endpoint: str, status: int, seconds: float) -> None:
        """Count one answer; ``endpoint`` is a route's template."""
        self._requests.labels(endpoint, str(status)).inc()
        self._request_seconds.labels(endpoint).observe(seconds)

    def rate_limited(self) -> None:
        """Count one request that was refused for its client's rate, in all or about one credential."""
        self._rate_limited.inc()

    def connection_refused(self, of: str) -> None:
        """Count one connection for which there was no place; ``of``: of what there were too many."""
        self._connections_refused.labels(of).inc()

    def text(self) -> bytes:
        """Return all metrics in Prometheus text format 0.0.4."""
        return generate_latest(self.registry)


class _PoolCollector(Collector):
    """Gauges of the pool, read when the metrics are."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def collect(self) -> Iterator[Metric]:
        """Called for every /metrics."""
        pool = self._pool
        yield GaugeMetricFamily("hsm_signer_queue", "Calls waiting for a worker.", value=pool.queue)
        yield GaugeMetricFamily(
            "hsm_signer_in_flight", "Calls waiting for a worker or with one.", value=pool.in_flight
        )
        states = Count(worker.state for worker in pool.workers())
        workers = GaugeMetricFamily("hsm_signer_workers", "Workers connected, by state.", labels=["state"])
        for state in STATES:
            workers.add_metric([state], states[state])
        yield workers
        yield CounterMetricFamily(
            "hsm_signer_worker_restarts",
            "Workers started anew, as far as seen from here.",
            value=pool.restarts,
        )
        yield CounterMetricFamily(
            "hsm_signer_worker_lost", "Workers that went without saying so.", value=pool.lost
        )
