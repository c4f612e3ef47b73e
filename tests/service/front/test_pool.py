"""The front's links to workers: the queue, lost and draining workers, whoever does not speak as agreed.

The workers here are sockets of the test's own that speak frames and do what the test says.
"""

from __future__ import annotations

import asyncio
import io
import os
from pathlib import Path

import msgspec
import pytest

from hsm_signer.errors import (
    ConfigError,
    RequestTooLarge,
    ServiceBusy,
    ServiceStopping,
    ServiceTimeout,
    WorkerLost,
    WorkerUnavailable,
)
from hsm_signer.service.front.pool import DEPTH, Pool
from hsm_signer.service.wire.frames import MAX_CHUNK, Kind, frame_bytes, socket_path
from hsm_signer.service.wire.operations import (
    VERSION,
    Call,
    Caller,
    Failure,
    GetAnchor,
    Reply,
    Sign,
    decode,
    encode,
)
from hsm_signer.types import Digest
from tests.support import needs
from tests.support.fake_worker import TIMEOUT, FakeWorker, ask, call, pool_on, run, until
from tests.support.scenes import AUTHORISATION


def sign_call(size: int) -> Call:
    operation = Sign(authorisation=AUTHORISATION, message=size)
    return Call(caller=Caller(bearer="b"), request_id="m", operation=operation)


# --- the queue ---------------------------------------------------------------------------------------------


def test_call_reaches_the_worker_and_its_answer_comes_back() -> None:
    async def test(folder: Path) -> None:
        async with FakeWorker(folder).running() as worker, pool_on(folder) as pool:
            task = ask(pool, "first")
            await until(lambda: worker.calls)
            assert worker.asked(0) == "first"
            assert worker.calls[0].id == 1
            worker.reply(1, "result")
            answer = await task
            assert isinstance(answer, Reply)
            assert (decode(bytes(answer.result), str), answer.client) == ("result", "c")
            task = ask(pool)
            await until(lambda: len(worker.calls) == 2)
            worker.fail(2, "refused")
            assert await task == Failure(code="refused", message="no")
            assert (pool.queue, pool.in_flight) == (0, 0)

    run(test)


def test_calls_wait_in_their_order() -> None:
    async def test(folder: Path) -> None:
        async with FakeWorker(folder).running() as worker, pool_on(folder) as pool:
            tasks = [ask(pool, f"r{number}") for number in range(6)]
            await until(lambda: len(worker.calls) == DEPTH)
            assert (pool.queue, pool.in_flight) == (6 - DEPTH, 6)
            for number in range(6):
                await until(lambda: len(worker.calls) == min(number + DEPTH, 6))  # noqa: B023
                worker.reply(number + 1)
                await tasks[number]
            assert [worker.asked(number) for number in range(6)] == [f"r{number}" for number in range(6)]

    run(test)


def test_calls_are_shared_among_workers() -> None:
    async def test(folder: Path) -> None:
        async with (
            FakeWorker(folder, 0).running() as first,
            FakeWorker(folder, 1).running() as second,
            pool_on(folder, workers=2) as pool,
        ):
            await until(lambda: len(pool.workers()) == 2)
            tasks = [ask(pool) for _ in range(2 * DEPTH)]
            await until(lambda: len(first.calls) == len(second.calls) == DEPTH)
            for worker in (first, second):
                for frame in worker.calls:
                    worker.reply(frame.id)
            await asyncio.gather(*tasks)

    run(test)


def test_signatures_go_past_calls_that_only_read() -> None:
    """Anchors over a million chains take minutes: as many as anybody likes must not stop the signing."""

    async def test(folder: Path) -> None:
        async with FakeWorker(folder).running() as worker, pool_on(folder) as pool:
            await until(pool.workers)
            anchor = Call(caller=Caller(bearer="b"), request_id="anchor", operation=GetAnchor())
            anchors = [asyncio.ensure_future(pool.call(anchor)) for _ in range(5)]
            await until(lambda: worker.calls)
            others = [ask(pool, "other") for _ in range(3)]
            await until(lambda: len(worker.calls) == 3)
            assert [worker.asked(index) for index in range(3)] == ["anchor", "other", "other"]
            worker.reply(2)
            await until(lambda: len(worker.calls) == 4)
            assert worker.asked(3) == "other"
            worker.reply(1)
            await until(lambda: len(worker.calls) == 5)
            assert worker.asked(4) == "anchor"
            worker.reply(3)
            worker.reply(4)
            await asyncio.gather(*others)
            assert pool.queue == 3
            for each in anchors:
                each.cancel()
            await asyncio.gather(*anchors, return_exceptions=True)

    run(test)


def test_more_than_in_flight_is_refused_at_once() -> None:
    async def test(folder: Path) -> None:
        async with FakeWorker(folder).running() as worker, pool_on(folder, in_flight=3) as pool:
            tasks = [ask(pool) for _ in range(3)]
            await until(lambda: len(worker.calls) == DEPTH)
            with pytest.raises(ServiceBusy):
                await pool.call(call())
            worker.reply(1)
            await tasks[0]
            tasks.append(ask(pool))
            for number in (2, 3, 4):
                await until(lambda: len(worker.calls) >= number)  # noqa: B023
                worker.reply(number)
            await asyncio.gather(*tasks)

    run(test)


def test_client_that_goes_away_leaves_the_queue() -> None:
    async def test(folder: Path) -> None:
        async with FakeWorker(folder).running() as worker, pool_on(folder) as pool:
            tasks = [ask(pool, f"r{number}") for number in range(4)]
            await until(lambda: len(worker.calls) == DEPTH)
            tasks[2].cancel()  # waiting
            tasks[0].cancel()  # with the worker: it goes on
            await until(lambda: pool.queue == 1)
            assert pool.in_flight == DEPTH + 1
            for number in (1, 2, 3):
                await until(lambda: len(worker.calls) >= number)  # noqa: B023
                worker.reply(number)
            await asyncio.gather(tasks[1], tasks[3])
            assert [worker.asked(number) for number in range(3)] == ["r0", "r1", "r3"]
            assert pool.in_flight == 0

    run(test)


def test_answer_that_does_not_come() -> None:
    async def test(folder: Path) -> None:
        async with FakeWorker(folder).running() as worker, pool_on(folder, timeout=0.3) as pool:
            await until(pool.workers)
            tasks = [ask(pool) for _ in range(DEPTH + 1)]
            found = await asyncio.gather(*tasks, return_exceptions=True)
            assert [type(each) for each in found] == [*[ServiceTimeout] * DEPTH, ServiceBusy]
            # They still fill the worker, until it answers or goes.
            assert (pool.queue, pool.in_flight) == (0, DEPTH)
            worker.reply(1)
            worker.reply(2)
            await until(lambda: pool.in_flight == 0)
            pool._timeout = TIMEOUT
            task = ask(pool)
            await until(lambda: len(worker.calls) == DEPTH + 1)
            worker.reply(DEPTH + 1)
            await task

    run(test)


def test_call_to_one_worker_passes_the_queue() -> None:
    async def test(folder: Path) -> None:
        async with FakeWorker(folder).running() as worker, pool_on(folder) as pool:
            await until(pool.workers)
            tasks = [ask(pool, f"r{number}") for number in range(DEPTH + 1)]
            own = asyncio.ensure_future(pool.call_on(0, call("own")))
            await until(lambda: len(worker.calls) == DEPTH + 1)
            assert worker.asked(DEPTH) == "own"
            for number in range(1, DEPTH + 3):
                await until(lambda: len(worker.calls) >= number)  # noqa: B023
                worker.reply(number)
            await asyncio.gather(*tasks, own)
            with pytest.raises(WorkerUnavailable):
                await pool.call_on(1, call())
            worker.become("recovering", "no token")
            await until(lambda: pool.workers()[0].state == "recovering")
            with pytest.raises(WorkerUnavailable, match="worker 0"):
                await pool.call_on(0, call())

    run(test)


# --- workers come and go -----------------------------------------------------------------------------------


def test_worker_that_comes_later() -> None:
    async def test(folder: Path) -> None:
        async with pool_on(folder) as pool:
            task = ask(pool)
            await asyncio.sleep(0)
            assert pool.queue == 1
            async with FakeWorker(folder, state="starting").running() as worker:
                await until(pool.workers)
                assert pool.queue == 1
                worker.become("ready")
                await until(lambda: worker.calls)
                worker.reply(1)
                await task

    run(test)


def test_no_worker_at_all() -> None:
    async def test(folder: Path) -> None:
        async with pool_on(folder, workers=2, timeout=0.3) as pool:
            with pytest.raises(WorkerUnavailable) as caught:
                await pool.call(call())
            assert caught.value.hint == "2 of 2 workers cannot be reached"

    run(test)


def test_all_workers_without_their_token_is_said_at_once() -> None:
    async def test(folder: Path) -> None:
        async with (
            FakeWorker(folder, 0, state="recovering", reason="the token is gone").running() as first,
            pool_on(folder, workers=2) as pool,
        ):
            await until(pool.workers)
            waiting = ask(pool, "waits")
            await until(lambda: pool.queue == 1)
            async with FakeWorker(folder, 1).running() as second:
                await until(lambda: second.calls)
                blocked = [ask(pool) for _ in range(DEPTH)]
                await until(lambda: pool.queue == 1)
                second.become("recovering", "the store is gone")
                with pytest.raises(WorkerUnavailable) as caught:
                    await blocked[-1]
                assert caught.value.hint == (
                    "worker 0 is recovering: the token is gone; worker 1 is recovering: the store is gone"
                )
                with pytest.raises(WorkerUnavailable):
                    await pool.call(call())
                # What the worker has, it may still finish.
                second.reply(1)
                await waiting
                second.reply(2)
                await blocked[0]
                first.become("ready")
                await until(lambda: pool.workers()[0].state == "ready")
                task = ask(pool)
                await until(lambda: first.calls)
                first.reply(1)
                await task

    run(test)


def test_lost_worker_takes_its_calls_along_and_no_others() -> None:
    async def test(folder: Path) -> None:
        async with FakeWorker(folder).running() as worker, pool_on(folder) as pool:
            tasks = [ask(pool, f"r{number}") for number in range(DEPTH + 1)]
            await until(lambda: len(worker.calls) == DEPTH)
            worker.hang_up()
            found = await asyncio.gather(*tasks[:DEPTH], return_exceptions=True)
            assert [type(each) for each in found] == [WorkerLost] * DEPTH
            # It is there again: the one that waited goes to it.
            await until(lambda: len(worker.calls) == DEPTH + 1)
            assert worker.asked(DEPTH) == f"r{DEPTH}"
            worker.reply(1)
            await tasks[DEPTH]
            assert pool.lost == 1

    run(test)


def test_next_generation_is_counted() -> None:
    async def test(folder: Path) -> None:
        async with pool_on(folder) as pool:
            for generation in (2, 3, 5):
                worker = FakeWorker(folder, generation=generation, state="draining")
                async with worker.running():
                    await until(pool.workers)
                await until(lambda: not pool.workers())
            assert (pool.restarts, pool.lost) == (4, 0)

    run(test)


def test_call_refused_by_a_draining_worker_goes_to_the_next() -> None:
    async def test(folder: Path) -> None:
        async with FakeWorker(folder, 0).running() as first, pool_on(folder) as pool:
            tasks = [ask(pool, f"r{number}") for number in range(DEPTH + 1)]
            await until(lambda: len(first.calls) == DEPTH)
            first.fail(2, ServiceStopping.code)
            await until(lambda: pool.queue == 2)
            async with FakeWorker(folder, 1).running() as second:
                await until(lambda: len(second.calls) == 2)
                assert [second.asked(number) for number in range(2)] == ["r1", f"r{DEPTH}"]
                for number in (1, 2):
                    second.reply(number)
                first.reply(1)
                await asyncio.gather(*tasks)
            assert len(first.calls) == DEPTH
            await until(lambda: pool.lost == 1)
            first.hang_up()
            await until(lambda: first.connections)
            assert pool.lost == 1, "worker 1 went without a word; worker 0 had said so by its refusal"

    run(test)


def test_draining_worker_gets_nothing_new() -> None:
    async def test(folder: Path) -> None:
        async with FakeWorker(folder).running() as worker, pool_on(folder) as pool:
            first = ask(pool)
            await until(lambda: worker.calls)
            worker.become("draining")
            await until(lambda: pool.workers()[0].state == "draining")
            pool._timeout = 0.3
            second = ask(pool)
            worker.reply(1)
            await first
            with pytest.raises(WorkerUnavailable, match="no worker is ready"):
                await second
            assert len(worker.calls) == 1

    run(test)


def test_stopping_refuses_those_who_wait() -> None:
    async def test(folder: Path) -> None:
        async with FakeWorker(folder).running() as worker, pool_on(folder) as pool:
            tasks = [ask(pool) for _ in range(DEPTH + 1)]
            await until(lambda: len(worker.calls) == DEPTH)
            await pool.stop()
            found = await asyncio.gather(*tasks, return_exceptions=True)
            assert [type(each) for each in found] == [*[WorkerLost] * DEPTH, ServiceStopping]
            with pytest.raises(ServiceStopping):
                await pool.call(call())

    run(test)


# --- messages ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, MAX_CHUNK, MAX_CHUNK + 1, 3_000_000])
def test_message_goes_in_chunks(size: int) -> None:
    async def test(folder: Path) -> None:
        data = os.urandom(size)
        file = io.BytesIO(b"before" + data)
        file.seek(6)
        async with FakeWorker(folder).running() as worker, pool_on(folder) as pool:
            task = asyncio.ensure_future(pool.call(sign_call(size), file))
            await until(
                lambda: sum(len(each.payload) for each in worker.frames[1:]) == size and worker.frames
            )
            assert b"".join(each.payload for each in worker.frames[1:]) == data
            assert all(each.kind is Kind.CHUNK and each.id == 1 for each in worker.frames[1:])
            assert all(1 <= len(each.payload) <= MAX_CHUNK for each in worker.frames[1:])
            worker.reply(1)
            await task
            assert file.closed

    run(test)


def test_message_goes_again_after_a_draining_worker_and_from_its_beginning() -> None:
    async def test(folder: Path) -> None:
        data = os.urandom(200_000)
        async with FakeWorker(folder, 0).running() as first, pool_on(folder) as pool:
            task = asyncio.ensure_future(pool.call(sign_call(len(data)), io.BytesIO(data)))
            await until(lambda: len(first.frames) > 1)
            first.fail(1, ServiceStopping.code)
            async with FakeWorker(folder, 1).running() as second:
                await until(lambda: sum(len(each.payload) for each in second.frames[1:]) == len(data))
                assert b"".join(each.payload for each in second.frames[1:]) == data
                second.reply(1)
                await task

    run(test)


def test_message_of_a_client_that_went_away_is_sent_to_its_end() -> None:
    """Or the worker would wait for the rest of it for ever."""

    async def test(folder: Path) -> None:
        data = os.urandom(20_000_000)
        file = io.BytesIO(data)
        async with FakeWorker(folder).running() as worker, pool_on(folder) as pool:
            task = asyncio.ensure_future(pool.call(sign_call(len(data)), file))
            await until(lambda: len(worker.frames) > 1)
            task.cancel()
            await until(lambda: sum(len(each.payload) for each in worker.frames[1:]) == len(data))
            worker.reply(1)
            await until(lambda: file.closed)

    run(test)


def test_message_shorter_than_promised_ends_the_connection() -> None:
    async def test(folder: Path) -> None:
        async with FakeWorker(folder).running(), pool_on(folder) as pool:
            with pytest.raises(WorkerLost):
                await pool.call(sign_call(10), io.BytesIO(b"short"))

    run(test)


def test_message_is_closed_whatever_happens() -> None:
    async def test(folder: Path) -> None:
        async with pool_on(folder, in_flight=1, timeout=0.3) as pool:
            late, refused = io.BytesIO(b"m"), io.BytesIO(b"m")
            task = asyncio.ensure_future(pool.call(sign_call(1), late))
            await until(lambda: pool.queue == 1)
            with pytest.raises(ServiceBusy):
                await pool.call(sign_call(1), refused)
            with pytest.raises(WorkerUnavailable):
                await task
            assert late.closed
            assert refused.closed

    run(test)


# --- whoever does not speak as agreed ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "hello",
    [
        frame_bytes(0, Kind.STATE, b""),
        frame_bytes(0, Kind.HELLO, b"\xc0"),
        b"\xff" * 100,
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
    ],
)
def test_no_worker_listens_there(hello: bytes) -> None:
    async def test(folder: Path) -> None:
        async with FakeWorker(folder, hello=hello).running() as worker, pool_on(folder, timeout=0.5) as pool:
            with pytest.raises(WorkerUnavailable):
                await pool.call(call())
            assert worker.calls == []

    run(test)


@pytest.mark.parametrize("changes", [{"version": VERSION + 1}, {"slot": 7}])
def test_worker_of_another_version_or_slot(changes: dict[str, int]) -> None:
    async def test(folder: Path) -> None:
        state = msgspec.structs.replace(FakeWorker(folder).as_state(), **changes)
        hello = frame_bytes(0, Kind.HELLO, encode(state))
        async with FakeWorker(folder, hello=hello).running() as worker, pool_on(folder, timeout=0.5) as pool:
            with pytest.raises(WorkerUnavailable):
                await pool.call(call())
            assert worker.calls == []

    run(test)


@pytest.mark.parametrize(
    "frame",
    [
        frame_bytes(9, Kind.REPLY, encode(Reply(result=msgspec.Raw(encode(None))))),
        frame_bytes(1, Kind.REPLY, b"\xc0"),
        frame_bytes(1, Kind.FAILURE, encode({"code": 1})),
        frame_bytes(1, Kind.HELLO, b""),
        frame_bytes(0, Kind.STATE, b""),
        b"\x00\x00\x00\x01\x00",
        b"\xff\xff\xff\xff",
    ],
)
def test_answer_that_is_none_ends_the_connection(frame: bytes) -> None:
    async def test(folder: Path) -> None:
        async with FakeWorker(folder).running() as worker, pool_on(folder) as pool:
            task = ask(pool)
            await until(lambda: worker.calls)
            worker.connections[-1].write(frame)
            with pytest.raises(WorkerLost):
                await task
            again = ask(pool)
            await until(lambda: len(worker.calls) == 2)
            worker.reply(1)
            await again

    run(test)


def test_call_that_no_frame_holds_is_not_sent() -> None:
    async def test(folder: Path) -> None:
        async with FakeWorker(folder).running() as worker, pool_on(folder) as pool:
            digests = (Digest(bytes(64)),) * 140_000
            operation = msgspec.structs.replace(sign_call(0).operation, message=None, digests=digests)
            with pytest.raises(RequestTooLarge):
                await pool.call(Call(caller=Caller(bearer="b"), request_id="r", operation=operation))
            task = ask(pool)
            await until(lambda: worker.calls)
            worker.reply(1)
            await task
            assert len(worker.frames) == 1

    run(test)


def test_unknown_user() -> None:
    with pytest.raises(ConfigError, match=r"worker\.user: there is no system user 'no-such-user'"):
        Pool(Path("/nowhere"), workers=1, in_flight=1, timeout=1, user="no-such-user")


@pytest.mark.users
def test_socket_of_another_user_is_not_talked_to() -> None:
    needs.root()

    async def test(folder: Path) -> None:
        folder.chmod(0o777)
        code = (
            "import socket, sys, time, os; os.setuid(65534);"
            "s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen(); print('ready', flush=True);"
            "c, _ = s.accept(); print(len(c.recv(10)), flush=True)"
        )
        process = await asyncio.create_subprocess_exec(
            "python3", "-c", code, str(socket_path(folder, 0)), stdout=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready\n"
        async with pool_on(folder, timeout=1) as pool:
            assert await process.stdout.readline() == b"0\n", "closed without a byte"
            with pytest.raises(WorkerUnavailable):
                await pool.call(call())
        await process.wait()

    run(test)
