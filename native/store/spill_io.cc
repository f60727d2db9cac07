#include "store/spill_io.h"

#include <liburing.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <utility>

namespace hbmesh {
namespace {

class PlainSpillIo final : public SpillIo {
 public:
  PlainSpillIo(int file, SpillFault fault) : file_(file), fault_(std::move(fault)) {}

  void Start(uint32_t index, SpillOp op, uint64_t offset, std::byte* data, uint32_t bytes) override {
    errors_[index] = fault_ ? fault_(op, offset, bytes) : 0;
    uint32_t moved = 0;
    while (errors_[index] == 0 && moved < bytes) {
      const auto at = static_cast<off_t>(offset + moved);
      const ssize_t step = op == SpillOp::kWrite ? ::pwrite(file_, data + moved, bytes - moved, at)
                                                 : ::pread(file_, data + moved, bytes - moved, at);
      if (step > 0) {
        moved += static_cast<uint32_t>(step);
      } else if (step == 0) {
        errors_[index] = EIO;  // the file ends before its space does
      } else if (errno != EINTR) {
        errors_[index] = errno;
      }
    }
  }
  int Wait(uint32_t index) override { return std::exchange(errors_[index], 0); }

 private:
  const int file_;
  const SpillFault fault_;
  std::array<int, kDepth> errors_{};
};

class UringSpillIo final : public SpillIo {
 public:
  UringSpillIo(int file, SpillFault fault) : file_(file), fault_(std::move(fault)) {}
  ~UringSpillIo() override {
    if (!open_) {
      return;
    }
    for (uint32_t index = 0; index < kDepth; index++) {
      (void)Wait(index);  // the kernel may still write to the caller's buffers
    }
    io_uring_queue_exit(&ring_);
  }

  // An errno, or 0.
  int Open() {
    const int set = io_uring_queue_init(kDepth, &ring_, 0);
    if (set < 0) {
      return -set;
    }
    open_ = true;
    // Setting up may be allowed and entering not: one request that does nothing.
    io_uring_prep_nop(io_uring_get_sqe(&ring_));
    if (const int submitted = io_uring_submit(&ring_); submitted < 0) {
      return -submitted;
    }
    io_uring_cqe* done = nullptr;
    const int waited = WaitForOne(&done);
    if (waited == 0) {
      io_uring_cqe_seen(&ring_, done);
    }
    return waited;
  }

  void Start(uint32_t index, SpillOp op, uint64_t offset, std::byte* data, uint32_t bytes) override {
    pieces_[index] = {.op = op, .busy = true, .error = 0, .offset = offset, .data = data, .bytes = bytes};
    const int fault = fault_ ? fault_(op, offset, bytes) : 0;
    if (fault != 0) {
      End(index, fault);
    } else {
      Submit(index);
    }
  }

  int Wait(uint32_t index) override {
    while (pieces_[index].busy) {
      io_uring_cqe* done = nullptr;
      if (const int error = WaitForOne(&done); error != 0) {
        End(index, error);
        break;
      }
      const auto ended = static_cast<uint32_t>(io_uring_cqe_get_data64(done));
      const int moved = done->res;
      io_uring_cqe_seen(&ring_, done);
      OnMoved(ended, moved);
    }
    return std::exchange(pieces_[index].error, 0);
  }

 private:
  struct Piece {
    SpillOp op = SpillOp::kRead;
    bool busy = false;
    int error = 0;
    uint64_t offset = 0;
    std::byte* data = nullptr;
    uint32_t bytes = 0;  // still to move
  };

  int WaitForOne(io_uring_cqe** done) {
    int waited = 0;
    do {
      waited = io_uring_wait_cqe(&ring_, done);
    } while (waited == -EINTR || waited == -EAGAIN);
    return -waited;
  }

  void Submit(uint32_t index) {
    const Piece& piece = pieces_[index];
    io_uring_sqe* entry = io_uring_get_sqe(&ring_);  // there is one for each index
    if (piece.op == SpillOp::kWrite) {
      io_uring_prep_write(entry, file_, piece.data, piece.bytes, piece.offset);
    } else {
      io_uring_prep_read(entry, file_, piece.data, piece.bytes, piece.offset);
    }
    io_uring_sqe_set_data64(entry, index);
    int submitted = 0;
    do {
      submitted = io_uring_submit(&ring_);
    } while (submitted == -EINTR || submitted == -EAGAIN);
    if (submitted < 0) {
      End(index, -submitted);
    }
  }

  void OnMoved(uint32_t index, int moved) {
    Piece& piece = pieces_[index];
    if (moved == -EINTR || moved == -EAGAIN) {
      Submit(index);
    } else if (moved < 0) {
      End(index, -moved);
    } else if (moved == 0) {
      End(index, EIO);  // the file ends before its space does
    } else if (static_cast<uint32_t>(moved) == piece.bytes) {
      End(index, 0);
    } else {
      piece.offset += static_cast<uint32_t>(moved);
      piece.data += moved;
      piece.bytes -= static_cast<uint32_t>(moved);
      Submit(index);
    }
  }

  void End(uint32_t index, int error) {
    pieces_[index].busy = false;
    pieces_[index].error = error;
  }

  const int file_;
  const SpillFault fault_;
  io_uring ring_{};
  bool open_ = false;
  std::array<Piece, kDepth> pieces_{};
};

}  // namespace

Status MakeUringSpillIo(int file, SpillFault fault, std::unique_ptr<SpillIo>* io) {
  auto made = std::make_unique<UringSpillIo>(file, std::move(fault));
  if (const int error = made->Open(); error != 0) {
    return {StatusCode::kNotSupported, StatusFromErrno(error, "setting up io_uring").message() +
                                           "; plain reads and writes work without it (--spill_io plain)"};
  }
  *io = std::move(made);
  return Status::Ok();
}

std::unique_ptr<SpillIo> MakePlainSpillIo(int file, SpillFault fault) {
  return std::make_unique<PlainSpillIo>(file, std::move(fault));
}

}  // namespace hbmesh
