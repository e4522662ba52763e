// A browser starts no worker from a folder (file://). The search's then runs in a frame that nobody sees.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(address) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.body.append(frame);
      this.inner = frame.contentWindow;
      this.waiting = [];
      this.inner.postMessage = (data) => this.tell(this, data);
      this.inner.importScripts = (...scripts) => Promise.all(scripts.map((each) => this.load(each)));
      this.load(address).then(() => {
        const waiting = this.waiting;
        this.waiting = null;
        waiting.forEach((data) => this.postMessage(data));
      });
    }

    load(address) {
      return new Promise((resolve, reject) => {
        const script = this.inner.document.createElement("script");
        Object.assign(script, { src: new URL(address, location.href).href, onload: resolve, onerror: reject });
        this.inner.document.head.append(script);
      });
    }

    postMessage(data) {
      if (this.waiting) this.waiting.push(data);
      else this.tell(this.inner, data);
    }

    tell(target, data) {
      const event = new MessageEvent("message", { data });
      setTimeout(() => {
        target.dispatchEvent(event);
        if (target === this && this.onmessage) this.onmessage(event);
      });
    }

    terminate() {
      this.inner.frameElement.remove();
    }
  };
}
