"""Work off the GUI thread. The only module that knows napari's threads.

A generator worker of napari swallows RuntimeErrors (CUDA out of memory is one), and asking it to
quit closes the generator in another thread. So every error becomes a `Failed` event inside of the
generator, and stopping is done by a token that the step loop looks at. `create_worker` is not used:
it registers each worker with the window, which then keeps it, and all that it worked on, for ever.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from napari.qt.threading import FunctionWorker, GeneratorWorker
from qtpy.QtCore import QObject, QThreadPool, Signal

from napari_diffseg.core.errors import DiffsegError
from napari_diffseg.core.events import CancelToken, Failed

if TYPE_CHECKING:
    from typing import Any

    Stream = Callable[[CancelToken], Iterator[Any]]

_logger = logging.getLogger(__name__)


class Job(QObject):
    """A stream of events, such as that of `core.segment.segment`, drained in its own thread.

    Emits `reported` with each event, in the thread that made the job, until it is released.

    Parameters
    ----------
    stream
        Called in the other thread with the token that cancels it. What it raises becomes `Failed`.
    """

    reported = Signal(object)

    def __init__(self, stream: Stream) -> None:
        super().__init__()
        self._token = CancelToken()
        self._is_released = False
        self._worker = GeneratorWorker(_iter_safely, stream, self._token)
        self._worker.yielded.connect(self._relay)

    def start(self) -> None:
        """Begin."""
        self._worker.start()

    def cancel(self) -> None:
        """Stop before the next step; `Cancelled` follows."""
        self._token.cancel()

    def release(self) -> None:
        """Stop, and emit nothing any more, not even what is on its way."""
        self._is_released = True
        self._token.cancel()

    def _relay(self, event: object) -> None:
        if not self._is_released:
            self.reported.emit(event)


class Task(QObject):
    """A function in its own thread.

    Emits `done` with its result or `failed` with its exception, unless it is released.
    """

    done = Signal(object)
    failed = Signal(object)

    def __init__(self, function: Callable[..., object], *args: object) -> None:
        super().__init__()
        self._is_released = False
        self._worker = FunctionWorker(_catch, _Call(function, args))
        self._worker.returned.connect(self._relay)

    def start(self) -> None:
        """Begin."""
        self._worker.start()

    def release(self) -> None:
        """Emit nothing any more; the function runs to its end."""
        self._is_released = True

    def _relay(self, outcome: tuple[object, Exception | None]) -> None:
        if self._is_released:
            return
        result, error = outcome
        if error is None:
            self.done.emit(result)
        else:
            self.failed.emit(error)


def _iter_safely(stream: Stream, token: CancelToken) -> Iterator[object]:
    # Qt's pool has as many threads as there are cores: one that is busy for minutes must not keep
    # short tasks, or a run that goes first, from theirs.
    pool = QThreadPool.globalInstance()
    pool.releaseThread()
    try:
        yield from stream(token)
    except DiffsegError as error:
        yield Failed(error, str(error))
    except Exception as error:
        _logger.exception("a run stopped with an error")
        yield Failed(error, f"The run stopped with an error ({type(error).__name__}: {error}).")
    finally:
        pool.reserveThread()


class _Call:
    """A function and its arguments, for one call.

    While workers run side by side, superqt may leave one of them behind as what shows Python's
    warnings (`catch_warnings` is not made for threads): it must not keep a case alive.
    """

    def __init__(self, function: Callable[..., object], args: tuple[object, ...]) -> None:
        self._content: tuple[Callable[..., object], tuple[object, ...]] | None = function, args

    def __call__(self) -> object:
        assert self._content is not None
        (function, args), self._content = self._content, None
        return function(*args)


def _catch(call: _Call) -> tuple[object, Exception | None]:
    try:
        return call(), None
    except Exception as error:
        if not isinstance(error, DiffsegError):  # those are told to the user by whoever asked
            _logger.exception("a task stopped with an error")
        return None, error
