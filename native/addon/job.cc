#include "addon/job.h"

#include <memory>
#include <system_error>
#include <thread>
#include <utility>

#include "addon/mailbox.h"
#include "base/event_fd.h"
#include "base/fd.h"

namespace hbmesh::addon {

namespace {

// Owned by whoever comes first: the delivery of its result, or the hook at the environment's end.
class Job {
 public:
  using Work = std::function<Status(int cancelFd)>;
  using Done = std::function<void(Napi::Env env, const Status& status)>;

  static void Start(Napi::Env env, const char* name, Work work, Done done) {
    auto job = std::make_unique<Job>();
    ThrowIfFailed(env, CreateEventFd(&job->cancel_));
    job->done_ = std::move(done);
    Job* const self = job.get();
    job->mailbox_ = Mailbox<Status>::Make(env, name, [self](Napi::Env current, std::vector<Status>&& results) {
      self->Finish(current, results.front());
    });
    // Added after the mailbox's own hook, so it runs before: the thread ends while its mailbox still stands.
    napi_add_env_cleanup_hook(env, &Job::AtEnvironmentEnd, self);
    try {
      job->thread_ = std::thread([self, work = std::move(work)] {
        const auto mailbox = self->mailbox_;
        mailbox->Post(work(self->cancel_.get()));
      });
    } catch (const std::system_error& error) {
      job->mailbox_->Post(StatusFromErrno(error.code().value(), "starting a thread"));
    }
    static_cast<void>(job.release());
  }

 private:
  void Finish(Napi::Env env, const Status& status) {
    const std::unique_ptr<Job> owned(this);
    napi_remove_env_cleanup_hook(env, &Job::AtEnvironmentEnd, this);
    if (thread_.joinable()) thread_.join();
    mailbox_->Detach();
    mailbox_->Close();
    done_(env, status);
  }

  static void AtEnvironmentEnd(void* argument) {
    const std::unique_ptr<Job> owned(static_cast<Job*>(argument));
    SignalEvent(owned->cancel_.get());
    if (owned->thread_.joinable()) owned->thread_.join();
    owned->mailbox_->Abandon();
  }

  Fd cancel_;
  Done done_;
  std::shared_ptr<Mailbox<Status>> mailbox_;
  std::thread thread_;
};

}  // namespace

void RunJob(Napi::Env env, const char* name, std::function<Status(int cancelFd)> work,
            std::function<void(Napi::Env env, const Status& status)> done) {
  Job::Start(env, name, std::move(work), std::move(done));
}

Napi::Promise RunJob(Napi::Env env, const char* name, JobSteps steps) {
  auto deferred = std::make_shared<Napi::Promise::Deferred>(env);
  const Napi::Promise promise = deferred->Promise();
  RunJob(env, name, std::move(steps.work),
         [deferred, finish = std::move(steps.finish)](Napi::Env current, const Status& status) {
           if (!status.ok()) {
             deferred->Reject(MakeError(current, status).Value());
             return;
           }
           try {
             deferred->Resolve(finish(current));
           } catch (const Napi::Error& error) {
             deferred->Reject(error.Value());
           }
         });
  return promise;
}

}  // namespace hbmesh::addon
