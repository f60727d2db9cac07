// Mailbox: hands work from native threads to the environment's thread, many items in one call. A JavaScript environment
// is woken once for all that came since it last looked.
//
// Thread rule: Post from any thread; everything else from the environment's thread.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "addon/js_values.h"

namespace hbmesh::addon {

template <typename Item>
class Mailbox : public std::enable_shared_from_this<Mailbox<Item>> {
 public:
  using Handler = std::function<void(Napi::Env, std::vector<Item>&&)>;

  // The handler runs on the environment's thread, until Close or Detach.
  [[nodiscard]] static std::shared_ptr<Mailbox> Make(Napi::Env env, const char* name, Handler handler) {
    auto mailbox = std::shared_ptr<Mailbox>(new Mailbox(std::move(handler)));
    mailbox->function_ = Napi::ThreadSafeFunction::New(env, Napi::Function(), name, 0, 1);
    return mailbox;
  }

  void Post(Item item) {
    const std::lock_guard lock(mutex_);
    if (gone_) return;
    items_.push_back(std::move(item));
    if (scheduled_) return;
    // The lambda keeps the mailbox until it has run, or until the environment drops it at its end.
    const napi_status status = function_.NonBlockingCall(
        [self = this->shared_from_this()](Napi::Env env, Napi::Function) { self->Deliver(env); });
    scheduled_ = status == napi_ok;
    gone_ = status != napi_ok;  // the environment is ending: it gave our hold on the function back
  }

  // Whether the mailbox keeps the process alive. A new one does.
  void KeepAlive(Napi::Env env, bool alive) {
    const std::lock_guard lock(mutex_);
    if (gone_) return;
    if (alive) {
      function_.Ref(env);
    } else {
      function_.Unref(env);
    }
  }

  // Delivers what was posted so far before it returns.
  void DeliverNow(Napi::Env env) { Deliver(env); }

  // What was posted is still delivered; later posts are dropped.
  void Close() {
    const std::lock_guard lock(mutex_);
    if (gone_) return;
    gone_ = true;
    function_.Release();
  }

  // The handler is never called again.
  void Detach() { handler_ = nullptr; }

  // At the environment's end: nothing is delivered any more, and later posts are dropped. Must be called from a
  // clean-up hook that was added after Make, since Node then deletes the function that a Post would call.
  void Abandon() {
    Detach();
    const std::lock_guard lock(mutex_);
    gone_ = true;
  }

 private:
  explicit Mailbox(Handler handler) : handler_(std::move(handler)) {}

  void Deliver(Napi::Env env) {
    std::vector<Item> items;
    {
      const std::lock_guard lock(mutex_);
      items.swap(items_);
      scheduled_ = false;
    }
    if (items.empty()) return;         // delivered by DeliverNow
    const Handler handler = handler_;  // a copy: the handler may detach and so drop itself
    if (handler) handler(env, std::move(items));
  }

  Napi::ThreadSafeFunction function_;
  Handler handler_;
  std::mutex mutex_;  // guards what follows
  std::vector<Item> items_;
  bool scheduled_ = false;
  bool gone_ = false;
};

}  // namespace hbmesh::addon
